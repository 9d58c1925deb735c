//! Parts -> one HTML file that holds everything: no scripts, no fonts and no pictures from elsewhere.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::RgbImage;

use crate::{
    atomic,
    error::{Error, Result},
    pixels,
};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:1300px;margin:24px auto;padding:0 16px;color:#222}\
svg{max-width:100%;height:auto;margin:4px}table{border-collapse:collapse;margin:12px 0}\
td,th{padding:3px 10px;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}\
img{image-rendering:pixelated;margin:1px;vertical-align:middle}p{max-width:75ch}";

/// A page of `parts`, each HTML.
pub(super) fn page(title: &str, parts: &[String]) -> String {
    let title = escape(title);
    let body = parts.join("\n");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )
}

/// Writes a page to `path`, which holds it whole or stays what it was. Its folder is made if need be.
///
/// # Errors
/// [`Error::Write`].
pub fn save_page(path: &Path, page: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
    }
    atomic::write(path, page.as_bytes())
}

/// A text as HTML shows it.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn heading(text: &str) -> String {
    format!("<h2>{}</h2>", escape(text))
}

pub(super) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>", escape(text))
}

/// A table of texts.
pub(super) fn table<R: AsRef<[String]>>(head: &[&str], rows: impl IntoIterator<Item = R>) -> String {
    let cells = |tag: &str, texts: &mut dyn Iterator<Item = &str>| -> String {
        texts.map(|text| format!("<{tag}>{}</{tag}>", escape(text))).collect()
    };
    let head = cells("th", &mut head.iter().copied());
    let row = |row: R| format!("<tr>{}</tr>", cells("td", &mut row.as_ref().iter().map(String::as_str)));
    let rows: String = rows.into_iter().map(row).collect();
    format!("<table><tr>{head}</tr>{rows}</table>")
}

/// A picture, shown `width` pixels wide, with a text for who hovers over it.
pub(super) fn picture(image: &RgbImage, width: u32, hint: &str) -> String {
    let data = STANDARD.encode(pixels::to_png(image));
    format!("<img width=\"{width}\" title=\"{}\" src=\"data:image/png;base64,{data}\">", escape(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_no_markup_and_pictures_are_inside() {
        let hostile = "<script>alert(\"&\")</script>".to_owned();
        let image = RgbImage::from_pixel(2, 2, image::Rgb([1, 2, 3]));
        let parts = [
            heading(&hostile),
            paragraph(&hostile),
            table(&[&hostile], [[hostile.clone()]]),
            picture(&image, 40, &hostile),
        ];
        let page = page(&hostile, &parts);
        assert!(!page.contains("<script") && !page.contains("http"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;alert(&quot;&amp;&quot;)").count(), 7);
        let data = page.split("base64,").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let png = STANDARD.decode(data).unwrap();
        assert_eq!(pixels::decode(&png, "the page's", &pixels::Limits::default()).unwrap(), image);
    }
}
