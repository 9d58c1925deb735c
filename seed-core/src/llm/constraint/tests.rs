use proptest::prelude::*;

use super::*;

/// Two codes an image, 4 rows: ids 10 to 13, marks 14 and 15.
fn constraint(reply: Reply) -> Constraint {
    Constraint::new(Template::for_codebook(4, 2, 10).unwrap(), reply, vec![2]).unwrap()
}

/// Whether every id of a reply may come after those before it, and the reply may end there.
fn accepts(reply: Reply, prompt: &[u32], ids: &[u32]) -> bool {
    let constraint = constraint(reply);
    let each = (0..ids.len()).all(|at| constraint.allows(constraint.next(prompt, &ids[..at]), ids[at]));
    each && constraint.allows(constraint.next(prompt, ids), 2)
}

#[test]
fn an_image_has_exactly_as_many_codes_as_it_must_have() {
    for (ids, image, interleaved) in [
        (&[14, 10, 13, 15][..], true, true),
        (&[14, 10, 15], false, false),
        (&[14, 10, 13, 10, 15], false, false),
        (&[14, 10, 13], false, false),
        (&[14, 10, 5, 15], false, false),
        (&[14, 10, 14, 15], false, false),
        (&[10, 13, 15], false, false),
        (&[15], false, false),
        (&[], false, true),
        (&[5], false, true),
        (&[5, 14, 10, 13, 15, 6, 7], false, true),
        (&[14, 10, 13, 15, 14, 11, 11, 15], false, true),
        (&[14, 10, 13, 15, 11], false, false),
    ] {
        assert_eq!(accepts(Reply::Image, &[], ids), image, "{ids:?}");
        assert_eq!(accepts(Reply::Interleaved, &[], ids), interleaved, "{ids:?}");
    }
}

#[test]
fn the_prompt_counts() {
    let whole = [1, 14, 10, 11, 15, 7];
    for reply in [Reply::Image, Reply::Interleaved] {
        assert!(accepts(reply, &whole, &[14, 10, 13, 15]), "an image of the prompt is none of the reply");
        assert!(accepts(reply, &[1, 14], &[10, 13, 15]), "the prompt begins an image");
        assert!(accepts(reply, &[1, 14, 10, 13], &[15]));
        assert!(!accepts(reply, &[1, 14, 10], &[10, 13, 15]));
    }
    let broken = [14, 10, 10, 10];
    assert_eq!(constraint(Reply::Interleaved).next(&broken, &[]), Next::Text, "no image is gone on with that is none");
}

#[test]
fn masks_are_of_the_vocabulary() {
    let constraint = constraint(Reply::Image);
    let allowed = |next| {
        let mask = constraint.mask(next, 17).unwrap();
        (0u32..).zip(mask).filter_map(|(id, may)| may.then_some(id)).collect::<Vec<u32>>()
    };
    assert_eq!(allowed(Next::Text), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 16]);
    assert_eq!(allowed(Next::Code), [10, 11, 12, 13]);
    assert_eq!((allowed(Next::Begin), allowed(Next::End), allowed(Next::Stop)), (vec![14], vec![15], vec![2]));
    let mut logits = vec![0.5; 17];
    constraint.apply(Next::Code, &mut logits).unwrap();
    assert_eq!(logits[9..15], [f32::NEG_INFINITY, 0.5, 0.5, 0.5, 0.5, f32::NEG_INFINITY]);
    let error = constraint.apply(Next::Code, &mut [0.0; 15]).unwrap_err().to_string();
    assert!(constraint.mask(Next::Text, usize::MAX).unwrap_err().to_string().contains("31 bits"));
    assert!(error.contains("vocabulary = 15") && error.contains("need 16 rows"), "{error}");
}

#[test]
fn what_cannot_end_is_refused() {
    let template = Template::for_codebook(4, 2, 10).unwrap();
    assert!(Constraint::new(template.clone(), Reply::Image, vec![]).unwrap_err().to_string().contains("that ends it"));
    assert!(Constraint::new(template.clone(), Reply::Interleaved, vec![]).is_ok());
    let error = Constraint::new(template, Reply::Interleaved, vec![12]).unwrap_err().to_string();
    assert!(error.contains("stop = 12") && error.contains("a token of images"), "{error}");
}

proptest! {
    /// Whatever is drawn from what may come, all images are whole; and there is always something that may come.
    #[test]
    fn what_is_drawn_is_read(draws in proptest::collection::vec(any::<u32>(), 0..60)) {
        let constraint = constraint(Reply::Interleaved);
        let mut ids = Vec::new();
        for draw in draws {
            let mask = constraint.mask(constraint.next(&[14], &ids), 16).unwrap();
            let may: Vec<u32> = (0..16).filter(|&id| mask[id as usize]).collect();
            prop_assert!(!may.is_empty());
            ids.push(may[draw as usize % may.len()]);
        }
        let mut parser = super::super::IdParser::new(constraint.template.clone(), super::super::Mode::Strict);
        let mut pieces = Vec::new();
        prop_assert!(parser.push(&[14], &mut pieces).and_then(|()| parser.push(&ids, &mut pieces)).is_ok());
    }
}
