//! What was measured, as tables in Markdown.

use seed_core::eval::{Attributes, CodeUsage, PREFIX_COLUMNS, Prefix, Recall, Reconstruction, Retrieval, prefix_cells};

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn recalls(recall: &Recall) -> String {
    [recall.at_1, recall.at_5, recall.at_10].map(percent).join(" | ")
}

/// `data` says what was measured on: "1000 held-out scenes".
pub(super) fn retrieval(table: &Retrieval, data: &str) -> String {
    let mut text = format!(
        "Caption retrieval among {data}, in percent\n\n\
         | from | image to text R@1 | R@5 | R@10 | text to image R@1 | R@5 | R@10 | mean |\n\
         |---|---|---|---|---|---|---|---|"
    );
    for row in &table.rows {
        let (to_text, to_image) = (recalls(&row.image_to_text), recalls(&row.text_to_image));
        text += &format!("\n| {} | {to_text} | {to_image} | {} |", row.name, percent(row.mean));
    }
    text
}

pub(super) fn usage(usage: &CodeUsage, data: &str) -> String {
    let bits = usage.position_bits.iter().map(|bits| format!("{bits:.2}")).collect::<Vec<_>>().join(" ");
    let mut text = format!(
        "Codes of {data}\n\n| codebook | used | usage % | perplexity | different codes an image |\n|---|---|---|---|---|\n\
         | {} | {} | {} | {:.1} | {:.1} |\n\nEntropy of each position, in bits: {bits}",
        usage.codebook_size,
        usage.used,
        percent(usage.usage),
        usage.perplexity,
        usage.distinct_per_image
    );
    if let Some(margins) = &usage.margins {
        let heads: String = margins.quantiles.iter().map(|q| format!(" {:.0} % below |", 100.0 * q.share)).collect();
        let values: String = margins.quantiles.iter().map(|q| format!(" {:.2e} |", q.value)).collect();
        text += &format!(
            "\n\nMargins: how much larger the squared distance to the runner-up is\n\n| mean |{heads} distance to the code |\n|{}\n| {:.2e} |{values} {:.2e} |",
            "---|".repeat(margins.quantiles.len() + 2),
            margins.mean,
            margins.distance
        );
    }
    text
}

pub(super) fn reconstruction(result: &Reconstruction, data: &str) -> String {
    let asked = [
        result.scheduler.map(|name| format!(", scheduler {name}")),
        result.size.map(|size| format!(", {size} pixels")),
        result.keep_first.map(|codes| format!(", the first {codes} codes")),
    ];
    let asked: String = asked.into_iter().flatten().collect();
    let mut text = format!(
        "Image to tokens to image for {data}, {} steps, guidance {}, seed {}{asked}\n\n\
         | nearest original R@1 % | R@5 % | R@10 % | similarity | PSNR dB | SSIM | mean absolute error |\n|---|---|---|---|---|---|---|\n\
         | {} | {:.3} | {:.2} | {:.3} | {:.2} |",
        result.steps,
        result.guidance,
        result.seed,
        recalls(&result.nearest_original),
        result.similarity,
        result.psnr,
        result.ssim,
        result.absolute_error
    );
    if let Some(attributes) = &result.attributes {
        text += &format!(
            "\n\nAttributes of {} objects that a detector reads rightly, in percent\n\n\
             | from | colour | kind | cell | mean of these | size | texture | found | too many | background's colour | its kind |\n\
             |---|---|---|---|---|---|---|---|---|---|---|",
            attributes.objects
        );
        if let Some(originals) = &result.attributes_of_originals {
            text += &attributes_row("originals", originals);
        }
        text += &attributes_row("reconstructions", attributes);
    }
    text
}

fn attributes_row(name: &str, right: &Attributes) -> String {
    let share = |count: usize, of: usize| percent(count as f64 / of.max(1) as f64);
    let [colour, shape, cell, size, texture, found, extra] =
        [right.colour, right.shape, right.cell, right.size, right.texture, right.found, right.extra]
            .map(|count| share(count, right.objects));
    let [shade, backdrop] = [right.shade, right.backdrop].map(|count| share(count, right.scenes));
    let mean = percent(right.share());
    format!(
        "\n| {name} | {colour} | {shape} | {cell} | {mean} | {size} | {texture} | {found} | {extra} | {shade} | {backdrop} |"
    )
}

pub(super) fn prefixes(prefixes: &[Prefix], data: &str) -> String {
    let row = |cells: Vec<String>| format!("\n| {} |", cells.join(" | "));
    let rows: String = prefixes.iter().map(|prefix| row(prefix_cells(prefix))).collect();
    format!(
        "What the first tokens are worth, for {data}; recalls and attributes in percent\n\n| {} |\n|{}{rows}",
        PREFIX_COLUMNS.join(" | "),
        "---|".repeat(PREFIX_COLUMNS.len())
    )
}
