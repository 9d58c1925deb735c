use proptest::prelude::*;

use super::*;

/// Templates of all sizes, some with the marks before the codes, some with other spellings.
fn templates() -> impl Strategy<Value = Template> {
    let sizes = (1usize..=65_536, 1usize..=40, 0u32..100_000, any::<bool>());
    let texts = prop_oneof![
        Just(("<img>", "</img>", "<img_{:05}>")),
        Just(("<image>", "<image/>", "[v{}]")),
        Just(("<|image start|>", "<|image end|>", "<|visual token {:06d}|>")),
        Just(("«", "»", "·{:03}·")),
    ];
    (sizes, texts).prop_map(|((codebook_size, tokens, start, marks_first), (begin, end, token))| {
        let size = codebook_size as u32;
        let (offset, begin_id) = if marks_first { (start + 2, start) } else { (start, start + size) };
        let [begin, end, token] = [begin, end, token].map(str::to_owned);
        let config =
            TemplateConfig { codebook_size, tokens, offset, begin_id, end_id: begin_id + 1, begin, end, token };
        Template::new(config).unwrap()
    })
}

/// A template and images that it can write.
fn images() -> impl Strategy<Value = (Template, Codes)> {
    templates().prop_flat_map(|template| {
        let &TemplateConfig { codebook_size, tokens, .. } = template.config();
        let row = proptest::collection::vec(0..=(codebook_size - 1) as u16, tokens);
        let rows = proptest::collection::vec(row, 0..4);
        rows.prop_map(move |rows| (template.clone(), Codes::from_rows(rows, tokens, codebook_size).unwrap()))
    })
}

proptest! {
    #[test]
    fn codes_to_ids_and_text_and_back((template, codes) in images()) {
        let (ids, text) = (template.codes_to_ids(&codes).unwrap(), template.codes_to_text(&codes).unwrap());
        prop_assert_eq!(ids.len(), codes.batch() * template.block_len());
        prop_assert_eq!(&template.ids_to_codes(&ids).unwrap(), &codes);
        prop_assert_eq!(&template.text_to_codes(&text).unwrap(), &codes);
        prop_assert_eq!(&template.ids_to_text(&ids).unwrap(), &text);
        prop_assert_eq!(&template.text_to_ids(&text).unwrap(), &ids);
    }

    #[test]
    fn every_token_has_an_id_and_a_text_of_its_own(template in templates()) {
        let tokens = template.vocabulary();
        prop_assert_eq!(tokens.len(), template.config().codebook_size + 2);
        prop_assert!(tokens.is_sorted_by(|a, b| a.id < b.id));
        prop_assert_eq!(tokens.last().unwrap().id, template.last_id());
        let texts: std::collections::HashSet<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
        prop_assert_eq!(texts.len(), tokens.len());
        for token in tokens.iter().filter(|token| !token.is_mark).step_by(97) {
            let code = template.code(token.id).unwrap();
            prop_assert_eq!(&template.spelling.write(code.into()), &token.text);
        }
    }

    #[test]
    fn any_ids_and_any_text_are_read_or_refused(ids: Vec<u32>, text in "(<img>|</img>|<img_0000[0-9]>|.){0,40}") {
        let template = Template::for_codebook(8, 2, 4).unwrap();
        let _ = (template.ids_to_codes(&ids), template.text_to_codes(&text));
    }

    #[test]
    fn a_template_is_json((template, _) in images()) {
        let json = serde_json::to_string(&template).unwrap();
        prop_assert_eq!(serde_json::from_str::<Template>(&json).unwrap(), template);
    }
}

#[test]
fn seed_llama_is_as_published() {
    let template = Template::seed_llama();
    let codes = Codes::from_rows([(0u16..32).map(|i| i * 264).collect::<Vec<_>>()], 32, 8192).unwrap();
    let text = template.codes_to_text(&codes).unwrap();
    assert!(text.starts_with("<img><img_00000><img_00264><img_00528>"), "{text}");
    assert!(text.ends_with("<img_08184></img>"), "{text}");
    let ids = template.codes_to_ids(&codes).unwrap();
    assert_eq!((ids[0], ids[1], ids[2], ids[33]), (40_192, 32_000, 32_264, 40_193));
    assert_eq!(template.last_id() + 1, 40_194);
}

#[test]
fn what_is_wrong_with_a_template_is_said() {
    let wrong = |change: &dyn Fn(&mut TemplateConfig)| {
        let mut config = TemplateConfig::seed_llama();
        change(&mut config);
        Template::new(config).unwrap_err().to_string()
    };
    type Change = Box<dyn Fn(&mut TemplateConfig)>;
    let text = |field: fn(&mut TemplateConfig) -> &mut String, text: &'static str| -> Change {
        Box::new(move |config| *field(config) = text.to_owned())
    };
    let cases: Vec<(Change, &str)> = vec![
        (Box::new(|c| c.codebook_size = 0), "from 1 to 65536"),
        (Box::new(|c| c.codebook_size = 65_537), "from 1 to 65536"),
        (Box::new(|c| c.tokens = 0), "from 1 to 65536 codes"),
        (Box::new(|c| c.tokens = usize::MAX), "from 1 to 65536 codes"),
        (Box::new(|c| c.begin_id = 32_000), "begin_id = 32000 is not possible: the ids from 32000 to 40191"),
        (Box::new(|c| c.end_id = 40_191), "end_id = 40191"),
        (Box::new(|c| c.end_id = 40_192), "the mark before an image too"),
        (Box::new(|c| c.end_id = u32::MAX), "31 bits"),
        (
            Box::new(|c| c.offset = u32::MAX),
            "offset = 4294967295 is not possible: ids must fit into 31 bits, and the last one would be 4294975486",
        ),
        (text(|c| &mut c.begin, ""), "begin = \"\""),
        (text(|c| &mut c.end, "a\nb"), "no control characters"),
        (text(|c| &mut c.end, "<img>"), "begins like the other"),
        (text(|c| &mut c.end, "<img>2"), "begins like the other"),
        (text(|c| &mut c.begin, "<img_00012>"), "could be read as the beginning of a code"),
        (text(|c| &mut c.begin, "<img_"), "could be read as the beginning of a code"),
        (text(|c| &mut c.end, "<img_7>!"), "could be read as the beginning of a code"),
        (text(|c| &mut c.token, "<img>"), "one place for the number"),
        (text(|c| &mut c.token, "<img_{}_{}>"), "one place for the number"),
        (text(|c| &mut c.token, "<img_{:x}>"), "{} or {:0N}".split(' ').next().unwrap()),
        (text(|c| &mut c.token, "<img_{:00}>"), "N from 1 to 10"),
        (text(|c| &mut c.token, "<img_{}"), "no digit after it"),
        (text(|c| &mut c.token, "{}>"), "must stand before"),
        (text(|c| &mut c.token, "<img_{}0>"), "no digit after it"),
    ];
    for (change, what) in cases {
        let error = wrong(&change);
        assert!(error.contains(what), "{error} should contain {what}");
    }
}

#[test]
fn codes_of_another_model_are_refused() {
    let template = Template::for_codebook(16, 2, 100).unwrap();
    let longer = Codes::from_rows([[1u16, 2, 3]], 3, 16).unwrap();
    assert!(template.codes_to_ids(&longer).unwrap_err().to_string().contains("3 codes where 2 are needed"));
    let higher = Codes::from_rows([[1u16, 2], [3, 16]], 2, 17).unwrap();
    let error = template.codes_to_text(&higher).unwrap_err().to_string();
    assert!(error.contains("code 16 at position 1 of image 1"), "{error}");
    let smaller = Codes::from_rows([[1u16, 2]], 2, 8).unwrap();
    assert_eq!(template.codes_to_ids(&smaller).unwrap(), [116, 101, 102, 117]);
}

#[test]
fn other_ids_and_texts_are_no_images() {
    let template = Template::for_codebook(16, 2, 100).unwrap();
    for (ids, what) in [
        (&[116, 101, 102, 117, 5][..], "at id 4, is broken: id 5 stands outside"),
        (&[116, 101, 117], "it has 1 codes where 2 are needed"),
        (&[116, 101, 102, 103, 117], "more than 2 codes"),
        (&[116, 101, 102], "after 2 of 2 codes comes the end of the reply"),
        (&[116, 101, 7], "after 1 of 2 codes comes id 7"),
        (&[101], "id 101 (code 1) stands outside"),
    ] {
        let error = template.ids_to_codes(ids).unwrap_err().to_string();
        assert!(error.contains(what), "{ids:?}: {error}");
    }
    for (text, what) in [
        ("<img><img_00001><img_00002></img> ", "at byte 33, is broken: \" \" stands outside"),
        ("<img><img_00001> <img_00002></img>", "after 1 of 2 codes comes \" \""),
        ("<img><img_1><img_00002></img>", "after 0 of 2 codes comes \"<img_1>\""),
        ("<img><img_00001><img_00016></img>", "code 16 at position 1 is outside the codebook; codes are from 0 to 15"),
    ] {
        let error = template.text_to_codes(text).unwrap_err().to_string();
        assert!(error.contains(what), "{text:?}: {error}");
    }
}
