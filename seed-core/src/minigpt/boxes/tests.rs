//! What is written is read; what is malformed is told with its place.

use proptest::{collection::vec, prelude::*};

use super::*;

fn boxed(coordinates: [u8; 4]) -> GridBox {
    GridBox::new(coordinates).unwrap()
}

fn group(phrase: Option<&str>, boxes: &[[u8; 4]]) -> Grounded {
    Grounded::new(phrase, boxes.iter().copied().map(boxed).collect()).unwrap()
}

#[test]
fn texts_of_the_model_are_read() {
    for (text, want) in [
        ("{<10><20><55><80>}", vec![group(None, &[[10, 20, 55, 80]])]),
        ("It is {<0><0><100><100>}.", vec![group(None, &[[0, 0, 100, 100]])]),
        ("<p>a dog</p> {<1><2><3><4>}", vec![group(Some("a dog"), &[[1, 2, 3, 4]])]),
        ("<p>dogs</p>{<1><2><3><4>}<delim>{<5><5><5><5>}", vec![group(Some("dogs"), &[[1, 2, 3, 4], [5, 5, 5, 5]])]),
        (
            "A <p>red ball</p> {<1><2><3><4>} beside <p>the {old} wall</p> {<0><0><9><9>} <b>",
            vec![group(Some("red ball"), &[[1, 2, 3, 4]]), group(Some("the {old} wall"), &[[0, 0, 9, 9]])],
        ),
        (
            "<p>é</p> { <1> <2>\n< 3 ><4> } <delim> {<007><8><9><10>}",
            vec![group(Some("é"), &[[1, 2, 3, 4], [7, 8, 9, 10]])],
        ),
        ("{<1><2><3><4>} {<5><6><7><8>}", vec![group(None, &[[1, 2, 3, 4]]), group(None, &[[5, 6, 7, 8]])]),
        ("a {curly} < b, no box", Vec::new()),
        ("", Vec::new()),
    ] {
        assert_eq!(parse(text).unwrap(), want, "{text}");
    }
}

#[test]
fn malformed_texts_say_what_and_where() {
    for (text, at, reason) in [
        ("é {<1><2><3>}", 2, "4 coordinates and this one 3"),
        ("{<1><2><3><4><5>}", 0, "this one 5"),
        ("{<1><2><3><101>}", 0, "101 is outside 0 to 100"),
        ("{<1><2><3><-4>}", 0, "\"-4\" is no whole number"),
        ("{<1><2><3><99999999999999999999999>}", 0, "no whole number"),
        ("{<1><2><3><+4>}", 0, "\"+4\""),
        ("{<1><2><3>4>}", 0, "between < and >"),
        ("{<1><2><3><>}", 0, "no whole number"),
        ("{<5><2><3><4>}", 0, "right or bottom is before"),
        ("{<1><9><3><4>}", 0, "right or bottom is before"),
        ("see {<1><2><3", 4, "ends before the box"),
        ("{<1><2><3> {<1><2><3><4>}", 0, "not closed by }"),
        ("{<1><2><3><4>}<delim>", 14, "<delim> without a box after it"),
        ("{<1><2><3><4>}<delim>{<1>}", 21, "this one 1"),
        ("x<delim>{<1><2><3><4>}", 1, "<delim> without a box before it"),
        ("<p>a dog {<1><2><3><4>}", 0, "without a </p>"),
        ("<p>a <p>dog</p> {<1><2><3><4>}", 0, "without a </p>"),
        ("a dog</p> {<1><2><3><4>}", 5, "without a <p>"),
        ("<p>a dog</p> and {<1><2><3><4>}", 0, "a phrase without a box"),
        ("<p></p> {<1><2><3><4>}", 0, "a phrase without a text"),
    ] {
        match parse(text).unwrap_err() {
            Error::BoxText { at: found, reason: why, .. } => {
                assert!(found == at && why.contains(reason), "{text}: {why} at {found}");
            }
            other => panic!("{other}"),
        }
    }
    let message = parse("the dog {<1><2>}").unwrap_err().to_string();
    assert!(message.contains("character 8") && message.contains("{<1><2>}"), "{message}");
}

#[test]
fn what_is_well_formed_is_kept() {
    let text = "<p>dogs</p> {<1><2><3><4>}<delim>{<1><2>}<delim>{<5><6><7><8>} <p>cat</p> {<9>} {<2><2><3><3>} <p>end";
    let Parsed { groups, skipped } = parse_lenient(text);
    assert_eq!(groups, [group(Some("dogs"), &[[1, 2, 3, 4], [5, 6, 7, 8]]), group(None, &[[2, 2, 3, 3]])]);
    let skipped: Vec<&str> = skipped.into_iter().map(|part| &text[part.range]).collect();
    assert_eq!(skipped, ["{<1><2>}", "{<9>}", "<p>"]);
}

#[test]
fn pixels_are_truncated_as_the_reference_does() {
    let grid = |pixels, width, height| GridBox::from_pixels(pixels, width, height).unwrap().coordinates();
    assert_eq!(grid([0.0, 0.0, 640.0, 480.0], 640, 480), [0, 0, 100, 100]);
    assert_eq!(grid([6.39, 4.8, 639.9, 479.9], 640, 480), [0, 1, 99, 99]);
    // Python: int(29 / 100 * 100) is 28.
    assert_eq!(grid([29.0, 7.0, 57.0, 58.0], 100, 100), [28, 7, 56, 57]);
    for (pixels, words) in [
        ([-1.0, 0.0, 5.0, 5.0], "out of the image"),
        ([0.0, 0.0, 641.0, 5.0], "out of the image"),
        ([f64::NAN, 0.0, 5.0, 5.0], "out of the image"),
        ([9.0, 0.0, 5.0, 5.0], "before its left"),
    ] {
        let error = GridBox::from_pixels(pixels, 640, 480).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("640 x 480"), "{error}");
    }
    assert!(GridBox::from_pixels([0.0; 4], 0, 480).is_err());
    assert_eq!(boxed([10, 50, 25, 100]).to_pixels(640, 480), [64.0, 240.0, 160.0, 480.0]);
}

#[test]
fn impossible_groups_cannot_be_made() {
    assert!(GridBox::new([0, 0, 101, 5]).unwrap_err().to_string().contains("101"));
    assert!(GridBox::new([7, 0, 6, 5]).is_err());
    assert!(Grounded::new(Some("a"), Vec::new()).is_err());
    for phrase in ["", "a <p>", "</p>"] {
        assert!(Grounded::new(Some(phrase), vec![boxed([0; 4])]).is_err(), "{phrase}");
    }
}

fn any_box() -> impl Strategy<Value = GridBox> {
    let pair = || (0..=SCALE, 0..=SCALE).prop_map(|(a, b)| (a.min(b), a.max(b)));
    (pair(), pair()).prop_map(|((left, right), (top, bottom))| boxed([left, top, right, bottom]))
}

fn any_group() -> impl Strategy<Value = Grounded> {
    let phrase = proptest::option::of("[^<]{1,12}|.{1,12}");
    (phrase, vec(any_box(), 1..4))
        .prop_filter_map("a phrase with <p> in it", |(phrase, boxes)| Grounded::new(phrase.as_deref(), boxes).ok())
}

proptest! {
    #[test]
    fn what_is_written_is_read(groups in vec(any_group(), 0..5)) {
        prop_assert_eq!(parse(&format(&groups)).unwrap(), groups);
    }

    /// Between other words too, unless they begin a group themselves.
    #[test]
    fn groups_are_found_among_words(before in "[a-z {}.]{0,9}", groups in vec(any_group(), 0..3), after in "[a-z }.]{0,9}") {
        let text = format!("{before}. {} {after}", format(&groups));
        prop_assert_eq!(parse(&text).unwrap(), groups);
    }

    /// Any text is read without a panic, what is kept is well formed, and what is skipped is part of the text.
    #[test]
    fn any_text_is_read_or_refused(text in r"([<>{}0-9 é]|<p>|</p>|<delim>|\{<1><2><3><4>\}){0,40}") {
        let Parsed { groups, skipped } = parse_lenient(&text);
        prop_assert_eq!(parse(&format(&groups)).unwrap(), groups.clone());
        prop_assert!(skipped.windows(2).all(|pair| pair[0].range.start <= pair[1].range.start));
        prop_assert!(skipped.iter().all(|part| text.get(part.range.clone()).is_some_and(|part| !part.is_empty())));
        prop_assert_eq!(parse(&text).is_ok(), skipped.is_empty());
    }

    /// In the middle of a hundredth, which truncation does not move.
    #[test]
    fn pixels_of_a_box_lead_back_to_it(one in any_box(), width in 1u32..3000, height in 1u32..3000) {
        let sides = [width, height, width, height].map(f64::from);
        let pixels = one.to_pixels(width, height);
        let middle: [f64; 4] = std::array::from_fn(|i| (pixels[i] + sides[i] / 200.0).min(sides[i]));
        prop_assert_eq!(GridBox::from_pixels(middle, width, height).unwrap(), one);
    }
}
