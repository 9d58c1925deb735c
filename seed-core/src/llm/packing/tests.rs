use proptest::prelude::*;

use super::*;

/// Two codes an image, 4 rows: ids 10 to 13, marks 14 and 15.
fn template() -> Template {
    Template::for_codebook(4, 2, 10).unwrap()
}

fn options(length: usize) -> PackOptions {
    PackOptions { length, pad_id: 0, bos_id: Some(1), eos_id: Some(2), open: 1 }
}

fn text(ids: &[u32], loss: bool) -> Segment {
    Segment::Text { ids: ids.to_vec(), loss }
}

fn images(rows: &[[u16; 2]], loss: bool) -> Segment {
    Segment::Images { codes: Codes::from_rows(rows, 2, 4).unwrap(), loss }
}

const X: i32 = IGNORED;

#[test]
fn prompts_are_masked_and_answers_are_not() {
    let packer = Packer::new(template(), options(64)).unwrap();
    let document = [text(&[5, 6], false), images(&[[0, 3]], false), text(&[7], true), images(&[[1, 1]], true)];
    let tokens = packer.tokens(&document).unwrap();
    assert_eq!(tokens.ids, [1, 5, 6, 14, 10, 13, 15, 7, 14, 11, 11, 15, 2]);
    assert_eq!(tokens.labels, [X, X, X, X, X, X, X, 7, 14, 11, 11, 15, 2]);
    assert_eq!(tokens.images, [3..7, 8..12]);
    let prompt = packer.tokens(&document[..2]).unwrap();
    assert_eq!(prompt.labels.last(), Some(&X), "the end of what is not learned is not learned");
}

#[test]
fn sequences_are_filled_and_restart_with_each_document() {
    let mut packer = Packer::new(template(), options(10)).unwrap();
    assert_eq!(packer.push(&[text(&[5, 6], true)]).unwrap(), []);
    assert_eq!(packer.push(&[text(&[7], true)]).unwrap(), []);
    let complete = packer.push(&[images(&[[0, 3]], true)]).unwrap();
    let first = Sequence {
        ids: vec![1, 5, 6, 2, 1, 7, 2, 0, 0, 0],
        labels: vec![X, 5, 6, 2, X, 7, 2, X, X, X],
        position_ids: vec![0, 1, 2, 3, 0, 1, 2, 0, 1, 2],
        cu_seqlens: vec![0, 4, 7, 10],
        parts: vec![Part { document: 0, start: 0, len: 4 }, Part { document: 1, start: 0, len: 3 }],
    };
    assert_eq!(complete, std::slice::from_ref(&first));
    assert_eq!(first.padding(), 3);
    let rest = packer.finish();
    assert_eq!(rest[0].ids, [1, 14, 10, 13, 15, 2, 0, 0, 0, 0]);
    assert_eq!(packer.finish(), []);
}

#[test]
fn a_long_document_is_cut_before_an_image() {
    let mut packer = Packer::new(template(), PackOptions { bos_id: None, eos_id: None, ..options(6) }).unwrap();
    let document = [text(&[5, 6, 7], true), images(&[[0, 1], [2, 3]], true), text(&[8; 9], true)];
    let mut sequences = packer.push(&document).unwrap();
    sequences.extend(packer.finish());
    let ids: Vec<&[u32]> = sequences.iter().map(|sequence| sequence.ids.as_slice()).collect();
    assert_eq!(
        ids,
        [&[5, 6, 7, 0, 0, 0][..], &[14, 10, 11, 15, 0, 0], &[14, 12, 13, 15, 8, 8], &[8; 6], &[8, 0, 0, 0, 0, 0]]
    );
    assert_eq!(sequences[2].labels, [X, 12, 13, 15, 8, 8], "what comes before the first id is another sequence's");
    assert_eq!(sequences[3].parts, [Part { document: 0, start: 13, len: 6 }]);
}

#[test]
fn open_sequences_take_what_fits() {
    let fill = |open| {
        let mut packer =
            Packer::new(template(), PackOptions { bos_id: None, eos_id: None, open, ..options(8) }).unwrap();
        let documents = [5, 6, 3, 2].map(|len| [text(&vec![9; len], true)]);
        let mut sequences: Vec<Sequence> =
            documents.iter().flat_map(|document| packer.push(document).unwrap()).collect();
        sequences.extend(packer.finish());
        sequences.iter().map(Sequence::padding).collect::<Vec<_>>()
    };
    assert_eq!(fill(2), [0, 0]);
    assert_eq!(fill(1), [3, 2, 3]);
}

#[test]
fn what_cannot_be_packed_is_said() {
    let fail = |options: PackOptions| Packer::new(template(), options).unwrap_err().to_string();
    assert!(fail(options(3)).contains("length = 3 is not possible: an image is 4 ids"));
    assert!(fail(PackOptions { open: 0, ..options(8) }).contains("open = 0"));
    assert!(fail(PackOptions { pad_id: 14, ..options(8) }).contains("pad_id = 14"));
    assert!(fail(PackOptions { eos_id: Some(10), ..options(8) }).contains("eos_id = 10"));
    let mut packer = Packer::new(template(), options(8)).unwrap();
    let error = packer.push(&[text(&[5, 12], true)]).unwrap_err().to_string();
    assert!(error.contains("ids = 12") && error.contains("give images as codes"), "{error}");
    let other = Segment::Images { codes: Codes::from_rows([[0u16, 7]], 2, 8).unwrap(), loss: true };
    assert!(packer.push(&[other]).unwrap_err().to_string().contains("code 7 at position 1"));
    assert_eq!(packer.push(&[]).unwrap(), []);
    assert_eq!(packer.finish(), [], "nothing is left of what was refused");
}

fn documents() -> impl Strategy<Value = Vec<Vec<Segment>>> {
    let segment = prop_oneof![
        (proptest::collection::vec(16u32..99, 0..30), any::<bool>())
            .prop_map(|(ids, loss)| Segment::Text { ids, loss }),
        (proptest::collection::vec([0u16..4, 0u16..4], 0..4), any::<bool>())
            .prop_map(|(rows, loss)| images(&rows, loss)),
    ];
    proptest::collection::vec(proptest::collection::vec(segment, 0..5), 0..12)
}

proptest! {
    #[test]
    fn every_document_is_there_once_and_no_image_is_split(
        documents in documents(), length in 4usize..40, open in 1usize..4, bos: bool, eos: bool,
    ) {
        let options = PackOptions { length, pad_id: 0, bos_id: bos.then_some(1), eos_id: eos.then_some(2), open };
        let mut packer = Packer::new(template(), options).unwrap();
        let mut sequences = Vec::new();
        for document in &documents {
            sequences.extend(packer.push(document).unwrap());
        }
        sequences.extend(packer.finish());
        let mut found: Vec<(Part, Tokens)> = Vec::new();
        for sequence in &sequences {
            prop_assert_eq!(
                [sequence.ids.len(), sequence.labels.len(), sequence.position_ids.len()], [length; 3]
            );
            prop_assert_eq!((sequence.cu_seqlens[0], *sequence.cu_seqlens.last().unwrap()), (0, length as u32));
            for (run, bounds) in sequence.cu_seqlens.windows(2).enumerate() {
                let run_of = bounds[0] as usize..bounds[1] as usize;
                let positions: Vec<u32> = (0..run_of.len() as u32).collect();
                prop_assert_eq!(&sequence.position_ids[run_of.clone()], positions);
                let (ids, labels) = (&sequence.ids[run_of.clone()], &sequence.labels[run_of]);
                match sequence.parts.get(run) {
                    Some(&part) => {
                        prop_assert_eq!((part.len, labels[0]), (ids.len(), IGNORED));
                        found.push((part, Tokens { ids: ids.to_vec(), labels: labels.to_vec(), images: vec![] }));
                    }
                    None => {
                        prop_assert_eq!(run, sequence.parts.len());
                        prop_assert!(ids.iter().all(|&id| id == 0) && labels.iter().all(|&label| label == IGNORED));
                    }
                }
            }
            prop_assert!(sequence.parts.iter().all(|part| part.len > 0));
        }
        found.sort_by_key(|(part, _)| (part.document, part.start));
        for (number, document) in documents.iter().enumerate() {
            let whole = packer.tokens(document).unwrap();
            let parts = found.iter().filter(|(part, _)| part.document == number as u64);
            let mut at = 0;
            for (part, tokens) in parts {
                prop_assert_eq!(part.start, at);
                prop_assert!(!whole.images.iter().any(|image| image.start < at && at < image.end), "an image is split");
                prop_assert_eq!(&tokens.ids[..], &whole.ids[at..at + part.len]);
                prop_assert_eq!(&tokens.labels[1..], &whole.labels[at + 1..at + part.len]);
                at += part.len;
            }
            let is_empty = whole.ids.len() == usize::from(bos) + usize::from(eos);
            prop_assert_eq!(at, if is_empty { 0 } else { whole.ids.len() });
        }
    }
}
