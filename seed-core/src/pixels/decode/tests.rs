//! Golden files against Pillow, refusals, and bytes that are damaged at random.

use std::path::PathBuf;
use std::sync::OnceLock;

use proptest::prelude::*;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::super::{Filter, resize};
use super::*;

/// Size of the squashed golden images.
const SIZE: u32 = 224;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/preprocess").join(name)
}

fn formats() -> PathBuf {
    golden("../formats/cases.safetensors")
}

type File = (String, Vec<u8>);

/// The golden files with pixels: name and bytes.
fn photos() -> Vec<File> {
    std::fs::read_dir(golden(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("bad-") && !name.ends_with(".json"))
        .map(|name| (name.clone(), std::fs::read(golden(&name)).unwrap()))
        .collect()
}

/// Those, and the variants of the formats.
fn files() -> &'static [File] {
    static FILES: OnceLock<Vec<File>> = OnceLock::new();
    FILES.get_or_init(|| {
        let cases = std::fs::read(formats()).unwrap();
        let cases = SafeTensors::deserialize(&cases).unwrap();
        let small = variants(&cases, ".file").into_iter().map(|(name, _, bytes)| (name.to_owned(), bytes.to_vec()));
        photos().into_iter().chain(small).collect()
    })
}

fn message(bytes: &[u8]) -> String {
    decode(bytes, "cat.jpg", &Limits::default()).unwrap_err().to_string()
}

#[test]
fn every_golden_file_equals_pillow_bit_for_bit() {
    /// Pillow's pixels: height, width and channels, and the hash of the bytes.
    #[derive(serde::Deserialize)]
    struct Case {
        shape: [u32; 3],
        sha256: String,
    }
    let cases = std::fs::read(golden("cases.json")).unwrap();
    let cases: std::collections::BTreeMap<String, Case> = serde_json::from_slice(&cases).unwrap();
    let files = photos();
    assert_eq!(cases.len(), 3 * files.len());
    for (name, _) in files {
        let image = open(&golden(&name), &Limits::default()).unwrap();
        let equal = |kind: &str, image: &RgbImage| {
            let expected = &cases[&format!("{name}.{kind}")];
            assert_eq!(expected.shape, [image.height(), image.width(), 3], "{name}.{kind}");
            let found: String = Sha256::digest(image.as_raw()).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, expected.sha256, "pixels of {name}.{kind}");
        };
        equal("rgb", &image);
        equal("bicubic", &resize(&image, SIZE, SIZE, Filter::Bicubic));
        equal("bilinear", &resize(&image, SIZE, SIZE, Filter::Bilinear));
    }
}

/// The cases of `tests/golden/formats/make.py` whose names end with `kind`: name, shape and bytes.
fn variants<'a>(cases: &'a SafeTensors<'a>, kind: &str) -> Vec<(&'a str, Vec<usize>, &'a [u8])> {
    let mut found: Vec<_> = cases
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_suffix(kind)?, tensor.shape().to_vec(), tensor.data())))
        .collect();
    found.sort();
    found
}

#[test]
fn every_variant_of_the_formats_equals_pillow_bit_for_bit() {
    let cases = std::fs::read(formats()).unwrap();
    let cases = SafeTensors::deserialize(&cases).unwrap();
    let files = variants(&cases, ".file");
    assert!(files.len() > 150, "{} files", files.len());
    for ((name, _, bytes), (_, shape, expected)) in files.into_iter().zip(variants(&cases, ".rgb")) {
        let image = decode(bytes, name, &Limits::default()).unwrap();
        assert_eq!(shape, [image.height() as usize, image.width() as usize, 3], "{name}");
        let different = expected.iter().zip(image.as_raw()).filter(|(a, b)| a != b).count();
        assert_eq!(different, 0, "bytes of {name} that differ");
    }
}

#[test]
fn every_resize_equals_pillow_bit_for_bit() {
    let cases = std::fs::read(formats()).unwrap();
    let cases = SafeTensors::deserialize(&cases).unwrap();
    let sources = variants(&cases, ".from");
    assert_eq!(sources.len(), 20);
    for ((name, from, bytes), (_, to, expected)) in sources.into_iter().zip(variants(&cases, ".to")) {
        let image = RgbImage::from_raw(from[1] as u32, from[0] as u32, bytes.to_vec()).unwrap();
        let filter = if name.ends_with("bicubic") { Filter::Bicubic } else { Filter::Bilinear };
        assert_eq!(resize(&image, to[1] as u32, to[0] as u32, filter).as_raw(), expected, "{name}");
    }
}

#[test]
fn what_is_no_whole_image_is_refused_with_the_reason() {
    let bad = |name: &str| message(&std::fs::read(golden(name)).unwrap());
    let empty = bad("bad-empty.jpg");
    assert!(empty.contains("cat.jpg") && empty.contains("is empty"), "{empty}");
    let text = bad("bad-text.png");
    assert!(text.contains("not an image") && text.contains("accepted formats are PNG, JPEG"), "{text}");
    let cut = bad("bad-truncated.jpg");
    assert!(cut.contains("cut off"), "{cut}");
    for (bytes, what) in [
        (b"\0\0\0\x1cftypavif".as_slice(), "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIF"),
        (b"\xff\x0a\xfa", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"qoif", "QOI"),
        (b"%PDF-1.7", "PDF"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (b"ftyp", "not an image"),
    ] {
        let reason = message(bytes);
        assert!(reason.contains(&format!("it is {what}")), "{reason}");
    }
    let missing = open(&golden("missing.png"), &Limits::default()).unwrap_err();
    assert!(matches!(missing, Error::Read { .. }), "{missing}");
}

#[test]
fn every_file_that_lacks_its_last_half_is_refused() {
    // The first image of an animation may be in the first half.
    for (name, bytes) in files().iter().filter(|(name, _)| !name.contains("animated")) {
        assert!(decode(&bytes[..bytes.len() / 2], name, &Limits::default()).is_err(), "{name}");
    }
}

#[test]
fn a_jpeg_without_its_end_marker_is_refused_as_by_pillow() {
    for name in ["photo-420.jpg", "progressive.jpg", "gray.jpg", "cmyk.jpg"] {
        let bytes = std::fs::read(golden(name)).unwrap();
        let cut = message(&bytes[..bytes.len() - 2]);
        assert!(cut.contains("cut off"), "{name}: {cut}");
    }
}

/// A file of each format whose header announces 60,000 x 60,000 pixels (WebP: 16,000 x 16,000, its largest is 16,383).
fn giants() -> Vec<(&'static str, Vec<u8>)> {
    let side = 60_000_u32;
    let mut png = std::fs::read(golden("exact.png")).unwrap();
    png[16..20].copy_from_slice(&side.to_be_bytes());
    png[20..24].copy_from_slice(&side.to_be_bytes());
    let crc = { crc32(&png[12..29]) };
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let mut jpeg = std::fs::read(golden("photo-420.jpg")).unwrap();
    let frame = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    let mut gif = std::fs::read(golden("frames.gif")).unwrap();
    gif[6..10].copy_from_slice(&[0x60, 0xea, 0x60, 0xea]);
    let mut bmp = std::fs::read(golden("plain.bmp")).unwrap();
    bmp[18..22].copy_from_slice(&side.to_le_bytes());
    bmp[22..26].copy_from_slice(&side.to_le_bytes());
    let mut webp = std::fs::read(golden("lossy.webp")).unwrap();
    let start = webp.windows(3).position(|code| code == [0x9d, 0x01, 0x2a]).unwrap();
    webp[start + 3..start + 7].copy_from_slice(&[0x80, 0x3e, 0x80, 0x3e]);
    let mut tiff = b"II*\0\x08\0\0\0\x02\0".to_vec();
    for tag in [256_u16, 257] {
        tiff.extend_from_slice(&tag.to_le_bytes());
        tiff.extend_from_slice(&[4, 0, 1, 0, 0, 0]);
        tiff.extend_from_slice(&side.to_le_bytes());
    }
    vec![("png", png), ("jpeg", jpeg), ("gif", gif), ("bmp", bmp), ("webp", webp), ("tiff", tiff)]
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn giants_are_refused_at_their_header() {
    for (format, bytes) in giants() {
        let start = std::time::Instant::now();
        let error = decode(&bytes, format, &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::ImageTooLarge { .. }), "{format}: {error}");
        assert!(start.elapsed().as_millis() < 100, "{format} took {:?}", start.elapsed());
    }
    let bytes = std::fs::read(golden("wide.png")).unwrap();
    assert!(decode(&bytes, "wide.png", &Limits { max_pixels: 320 * 180 }).is_ok());
    assert!(decode(&bytes, "wide.png", &Limits { max_pixels: 320 * 180 - 1 }).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Any damage to any golden file gives an image or an error, never a panic.
    #[test]
    fn damaged_files_never_panic(
        file in any::<prop::sample::Index>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..6),
        front in any::<bool>(),
    ) {
        let files = files();
        let (name, mut bytes) = files[file.index(files.len())].clone();
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()).max(1));
        }
        for (place, mask) in flips {
            // Half of the cases damage headers.
            let reach = if front { bytes.len().min(200) } else { bytes.len() };
            bytes[place.index(reach)] ^= mask;
        }
        let _ = decode(&bytes, &name, &Limits { max_pixels: 1 << 22 });
    }

    /// Bytes behind a signature that lead nowhere.
    #[test]
    fn noise_never_panics(which in 0_usize..8, mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let signatures: [&[u8]; 8] = [
            b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x80\x01\0\0WEBPVP8 ", b"RIFF\x80\x01\0\0WEBPVP8L", b"GIF89a",
            b"BM", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08",
        ];
        bytes.splice(0..0, signatures[which].iter().copied());
        let _ = decode(&bytes, "noise", &Limits { max_pixels: 1 << 22 });
    }
}
