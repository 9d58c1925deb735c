use proptest::prelude::*;

use super::*;

/// Two codes an image, 16 rows; ids 100 to 115, marks 116 and 117.
fn template() -> Template {
    Template::for_codebook(16, 2, 100).unwrap()
}

fn read_text(parts: &[&str], mode: Mode) -> Result<Vec<Piece<String>>> {
    let mut parser = TextParser::new(template(), mode);
    let mut out = Vec::new();
    parts.iter().try_for_each(|part| parser.push(part, &mut out))?;
    parser.finish(&mut out)?;
    Ok(out)
}

fn read_ids(ids: &[u32], mode: Mode) -> Result<Vec<Piece<Vec<u32>>>> {
    let mut parser = IdParser::new(template(), mode);
    let mut out = Vec::new();
    parser.push(ids, &mut out)?;
    parser.finish(&mut out)?;
    Ok(out)
}

fn text(text: &str) -> Piece<String> {
    Piece::Text(text.to_owned())
}

fn image<T>(codes: [u16; 2], tolerated: usize) -> Piece<T> {
    Piece::Image { codes: codes.to_vec(), tolerated }
}

fn skipped(what: &str, fault: Fault) -> Piece<String> {
    Piece::Skipped { what: what.to_owned(), fault }
}

const REPLY: &str = "A <b>cat</b> <img><img_00003><img_00015></img> and <img><img_00000><img_00001></img>!<im";

fn pieces_of_reply() -> Vec<Piece<String>> {
    vec![text("A <b>cat</b> "), image([3, 15], 0), text(" and "), image([0, 1], 0), text("!<im")]
}

#[test]
fn text_and_images_come_in_turn() {
    for mode in [Mode::Strict, Mode::Lenient] {
        assert_eq!(read_text(&[REPLY], mode).unwrap(), pieces_of_reply());
        assert_eq!(read_text(&[], mode).unwrap(), []);
        let ids = [5, 6, 116, 103, 115, 117, 116, 100, 101, 117, 118];
        let expected = [Piece::Text(vec![5, 6]), image([3, 15], 0), image([0, 1], 0), Piece::Text(vec![118])];
        assert_eq!(read_ids(&ids, mode).unwrap(), expected);
    }
}

#[test]
fn a_mark_may_be_split_anywhere() {
    for at in 0..=REPLY.len() {
        let (first, second) = REPLY.split_at(at);
        assert_eq!(read_text(&[first, second], Mode::Strict).unwrap(), pieces_of_reply(), "split at {at}");
    }
    let letters: Vec<String> = REPLY.chars().map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    assert_eq!(read_text(&letters, Mode::Lenient).unwrap(), pieces_of_reply());
}

#[test]
fn what_is_complete_comes_at_once() {
    let mut parser = TextParser::new(template(), Mode::Strict);
    let mut out = Vec::new();
    parser.push("see <", &mut out).unwrap();
    assert_eq!(out, [text("see ")], "only what may become a mark is held back");
    parser.push("i> <img><img_00003><img_00004></img", &mut out).unwrap();
    assert_eq!(out, [text("see <i> ")]);
    parser.push(">", &mut out).unwrap();
    assert_eq!(out[1..], [image([3, 4], 0)]);

    let mut parser = IdParser::new(template(), Mode::Strict);
    let mut out = Vec::new();
    parser.push(&[5], &mut out).unwrap();
    assert_eq!(out, [Piece::Text(vec![5])]);
}

#[test]
fn the_first_broken_image_is_an_error_that_says_what_is_wrong() {
    for (reply, what) in [
        ("a<img><img_00001></img>", "image 0 of the reply, at byte 1, is broken: it has 1 codes where 2 are needed"),
        ("<img><img_00001><img_00002><img_00003>", "it has more than 2 codes"),
        ("<img><img_00001><img_00016></img>", "code 16 at position 1 is outside the codebook"),
        ("<img><img_9999999999>", "code 9999999999 at position 0"),
        ("<img><img_00001><img_00002>", "no end mark: after 2 of 2 codes comes the end of the reply"),
        ("<img><img_00001>so it is", "after 1 of 2 codes comes \"so it is\""),
        (
            "<img><img_00001><img_00002></img><img><img>",
            "image 1 of the reply, at byte 33, is broken: it has no end mark: after 0 of 2 codes comes \"<img>\"",
        ),
        ("</img>", "image 0 of the reply, at byte 0, is broken: \"</img>\" stands outside of an image"),
        ("ü<img_00001>", "at byte 2, is broken: \"<img_00001>\" stands outside"),
    ] {
        let error = read_text(&[reply], Mode::Strict).unwrap_err().to_string();
        assert!(error.contains(what), "{reply}: {error}");
    }
    let error = read_ids(&[7, 116, 101, 102, 103], Mode::Strict).unwrap_err().to_string();
    assert!(error.contains("image 0 of the reply, at id 1, is broken: it has more than 2 codes"), "{error}");
    let error = read_ids(&[7, 117], Mode::Strict).unwrap_err().to_string();
    assert!(error.contains("at id 1, is broken: id 117 (\"</img>\") stands outside"), "{error}");
}

#[test]
fn what_came_before_an_error_is_there_and_a_reset_begins_anew() {
    let mut parser = TextParser::new(template(), Mode::Strict);
    let mut out = Vec::new();
    let error = parser.push("a<img><img_00001><img_00002></img></img>b", &mut out).unwrap_err().to_string();
    assert!(error.contains("image 1 of the reply"), "{error}");
    assert_eq!(out, [text("a"), image([1, 2], 0)]);
    assert_eq!(parser.push("c", &mut out).unwrap_err().to_string(), error, "it stays ended");
    assert_eq!(parser.finish(&mut out).unwrap_err().to_string(), error);
    assert_eq!(out.len(), 2);
    parser.reset();
    parser.push("<img><img_000", &mut out).unwrap();
    parser.reset();
    out.clear();
    parser.push("01>", &mut out).unwrap();
    parser.finish(&mut out).unwrap();
    assert_eq!(out, [text("01>")], "nothing is left of the reply before");
}

#[test]
fn leniently_what_is_skipped_is_said() {
    let few = Fault::TooFew { found: 1, expected: 2 };
    let none = |then: Option<&str>| Fault::NoEnd { found: 1, expected: 2, then: then.map(str::to_owned) };
    let outside = Fault::Outside { found: "\"<img_00001>\"".to_owned() };
    for (reply, expected) in [
        ("a<img><img_00001></img>b", vec![text("a"), skipped("<img><img_00001></img>", few), text("b")]),
        (
            "<img><img_00001><img_00002><img_00003><img_00004></img>b",
            vec![
                skipped("<img><img_00001><img_00002><img_00003><img_00004></img>", Fault::TooMany { expected: 2 }),
                text("b"),
            ],
        ),
        ("<img><img_00001>b", vec![skipped("<img><img_00001>", none(Some("\"b\""))), text("b")]),
        ("<img><img_00001>", vec![skipped("<img><img_00001>", none(None))]),
        (
            "<img><img_00001><img><img_00001><img_00002></img>",
            vec![skipped("<img><img_00001>", none(Some("\"<img>\""))), image([1, 2], 0)],
        ),
        (
            "<img><img_00099><img_00002></img>",
            vec![skipped(
                "<img><img_00099><img_00002></img>",
                Fault::OutOfRange { position: 0, code: 99, codebook_size: 16 },
            )],
        ),
        ("<img_00001><img_00002></img>c", vec![skipped("<img_00001><img_00002></img>", outside), text("c")]),
        ("<img> <img_1>\n<img_000002> </img>", vec![image([1, 2], 5)]),
    ] {
        assert_eq!(read_text(&[reply], Mode::Lenient).unwrap(), expected, "{reply}");
    }
}

#[test]
fn ids_become_text_by_the_callers_hand() {
    let pieces = read_ids(&[5, 6, 116, 103, 115, 117, 117], Mode::Lenient).unwrap();
    let pieces: Vec<Piece<String>> =
        pieces.into_iter().map(|piece| piece.map(|ids| ids.iter().map(u32::to_string).collect())).collect();
    let stray = Fault::Outside { found: "id 117 (\"</img>\")".to_owned() };
    assert_eq!(pieces, [text("56"), image([3, 15], 0), skipped("117", stray)]);
}

/// Fragments of replies: marks, codes in and out of range, beginnings of marks, text.
fn fragments() -> impl Strategy<Value = Vec<String>> {
    let fragment = prop_oneof![
        Just("<img>".to_owned()),
        Just("</img>".to_owned()),
        (0u32..20).prop_map(|code| format!("<img_{code:05}>")),
        (0u32..20).prop_map(|code| format!("<img_{code}>")),
        (0u16..16, 0u16..16).prop_map(|(a, b)| format!("<img><img_{a:05}><img_{b:05}></img>")),
        "[<img_/0> ü]{0,6}",
    ];
    proptest::collection::vec(fragment, 0..12)
}

/// All that pieces stand for, as it came.
fn written(pieces: &[Piece<String>]) -> String {
    let template = template();
    let one = |piece: &Piece<String>| match piece {
        Piece::Text(text) | Piece::Skipped { what: text, .. } => text.clone(),
        Piece::Image { codes, tolerated } => {
            assert_eq!(*tolerated, 0);
            template.codes_to_text(&crate::Codes::from_rows([codes], 2, 16).unwrap()).unwrap()
        }
    };
    pieces.iter().map(one).collect()
}

/// A piece without the text that comes instead of an end mark, which is quoted as far as it is there.
fn unquoted(piece: Piece<String>) -> Piece<String> {
    match piece {
        Piece::Skipped { what, fault: Fault::NoEnd { found, expected, then } } => {
            Piece::Skipped { what, fault: Fault::NoEnd { found, expected, then: then.map(|_| String::new()) } }
        }
        piece => piece,
    }
}

proptest! {
    #[test]
    fn pieces_do_not_depend_on_the_cuts(fragments in fragments(), cuts in proptest::collection::vec(0usize..200, 0..8)) {
        let reply = fragments.concat();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&at| reply.is_char_boundary(at)).collect();
        cuts.sort_unstable();
        let mut parts = Vec::new();
        let mut start = 0;
        for cut in cuts {
            parts.push(&reply[start..cut]);
            start = cut;
        }
        parts.push(&reply[start..]);
        for mode in [Mode::Strict, Mode::Lenient] {
            match (read_text(&[&reply], mode), read_text(&parts, mode)) {
                (Ok(whole), Ok(cut)) => {
                    prop_assert_eq!(whole.into_iter().map(unquoted).collect::<Vec<_>>(), cut.into_iter().map(unquoted).collect::<Vec<_>>());
                }
                (Err(whole), Err(cut)) => {
                    let facts = |error: &crate::Error| error.to_string().split(" comes ").next().unwrap().to_owned();
                    prop_assert_eq!(facts(&whole), facts(&cut));
                }
                (whole, cut) => prop_assert!(false, "{:?} but {:?}", whole, cut),
            }
        }
    }

    #[test]
    fn nothing_is_lost(fragments in fragments()) {
        let reply = fragments.concat();
        let pieces = read_text(&[&reply], Mode::Lenient).unwrap();
        if !pieces.iter().any(|piece| matches!(piece, Piece::Image { tolerated: 1.., .. })) {
            prop_assert_eq!(written(&pieces), reply.clone());
        }
        if let Ok(strict) = read_text(&[&reply], Mode::Strict) {
            prop_assert_eq!(written(&strict), reply);
        }
    }

    #[test]
    fn no_id_is_lost(ids in proptest::collection::vec(prop_oneof![100u32..118, 0u32..200], 0..60)) {
        let pieces = read_ids(&ids, Mode::Lenient).unwrap();
        let template = template();
        let again = pieces.into_iter().flat_map(|piece| match piece {
            Piece::Text(ids) | Piece::Skipped { what: ids, .. } => ids,
            Piece::Image { codes, .. } => {
                template.codes_to_ids(&crate::Codes::from_rows([codes], 2, 16).unwrap()).unwrap()
            }
        });
        prop_assert_eq!(again.collect::<Vec<u32>>(), ids);
    }
}
