//! A checkpoint's keys and shapes -> the sizes of the model that it holds.
//!
//! Everything but the numbers of attention heads can be seen. Those come from the caller's configuration or, for the
//! released widths, from the released models.

use std::collections::BTreeMap;

use crate::{
    detokenizer::Head,
    error::{Error, Result},
};

use super::SeedConfig;

/// Shapes by key, of all files together.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// The sizes that `shapes` show. `given` decides what cannot be seen, and how many of the vision transformer's blocks are
/// used; where it contradicts what is seen, that is an error. `file` names the checkpoint in errors.
///
/// # Errors
/// [`Error::WeightFile`] for keys that no head of SEED has together; [`Error::TensorKeys`] for a key without which nothing
/// can be told; [`Error::Argument`] for head counts that are needed; [`Error::Config`] for a contradiction.
pub(super) fn sizes(shapes: &Shapes, given: Option<&SeedConfig>, file: &str) -> Result<SeedConfig> {
    let seen = Seen { shapes, file };
    let patch = seen.shape("visual_encoder.patch_embed.proj.weight", 4)?;
    let positions = seen.shape("visual_encoder.pos_embed", 3)?;
    let side = (positions[1].saturating_sub(1) as f64).sqrt() as usize;
    let queries = seen.shape("query_tokens", 3)?;
    let codebook = seen.shape("quantize.embedding.weight", 2)?;
    let head = seen.head(queries[1] * queries[2])?;
    let (branch, proj) = match head {
        Head::Text => ("blocks_text", "distill_text_proj.weight"),
        Head::Mlp | Head::Qformer | Head::Linear => ("blocks_image", "distill_image_proj.weight"),
    };
    let (width, vit_width) = (queries[2], patch[0]);
    let vit_blocks = seen.count("visual_encoder.blocks");
    let reverse = match head {
        Head::Mlp | Head::Linear => None,
        Head::Qformer | Head::Text => {
            Some((seen.shape("reverse_tokens", 3)?[1], seen.count("Reverse_Qformer.bert.encoder.layer")))
        }
    };
    let released = SeedConfig::seed_2();
    let heads = |name: &'static str, given: Option<usize>, width: usize, (of, heads): (usize, usize)| match given {
        Some(heads) => Ok(heads),
        None if width == of => Ok(heads),
        None => Err(Error::Argument {
            name: "config",
            value: "none".to_owned(),
            reason: format!(
                "{file} is no released size, and {name} cannot be seen in it; give a JSON file with the model's sizes"
            ),
        }),
    };
    let found = SeedConfig {
        image_size: side * patch[2],
        patch_size: patch[2],
        vit_width,
        vit_depth: match given {
            Some(given) if given.vit_depth <= vit_blocks => given.vit_depth,
            // The released file of the vision transformer holds one block more than SEED uses.
            None if vit_width == released.vit_width && vit_blocks == released.vit_depth + 1 => released.vit_depth,
            _ => vit_blocks,
        },
        vit_heads: heads("vit_heads", given.map(|g| g.vit_heads), vit_width, (released.vit_width, released.vit_heads))?,
        vit_mlp: seen.shape("visual_encoder.blocks.0.mlp.fc1.weight", 2)?[0],
        qformer_width: width,
        qformer_depth: seen.count("Qformer.bert.encoder.layer"),
        qformer_heads: heads(
            "qformer_heads",
            given.map(|g| g.qformer_heads),
            width,
            (released.qformer_width, released.qformer_heads),
        )?,
        qformer_mlp: seen.shape("Qformer.bert.encoder.layer.0.intermediate_query.dense.weight", 2)?[0],
        cross_attention_every: seen.cross_attention_every(),
        num_queries: queries[1],
        codebook_size: codebook[0],
        codebook_dim: codebook[1],
        decoder_depth: seen.count(branch),
        decoder_heads: heads(
            "decoder_heads",
            given.map(|g| g.decoder_heads),
            width,
            (released.qformer_width, released.decoder_heads),
        )?,
        head,
        generation_dim: seen.shape(proj, 2)?[0],
        reverse_queries: reverse.map_or(given.map_or(released.reverse_queries, |g| g.reverse_queries), |(n, _)| n),
        reverse_depth: reverse.map_or(given.map_or(released.reverse_depth, |g| g.reverse_depth), |(_, n)| n),
        recon_semantic: shapes.contains_key("pos_embed"),
    };
    match given {
        Some(given) => agree(given, &found, file).map(|()| found),
        None => Ok(found),
    }
}

/// Holds when both are the same but for the image size, which may be asked for.
fn agree(given: &SeedConfig, found: &SeedConfig, file: &str) -> Result<()> {
    let values = |config: &SeedConfig| serde_json::to_value(config).expect("sizes and names are JSON");
    let (given, found) = (values(given), values(found));
    let fields = found.as_object().into_iter().flatten().filter(|(name, _)| *name != "image_size");
    for (name, seen) in fields {
        if given[name] != *seen {
            let reason = format!("it says {name} = {}, {file} holds {name} = {seen}", given[name]);
            return Err(Error::Config { file: "the configuration".to_owned(), reason });
        }
    }
    Ok(())
}

struct Seen<'a> {
    shapes: &'a Shapes,
    file: &'a str,
}

impl Seen<'_> {
    fn shape(&self, key: &str, axes: usize) -> Result<&[usize]> {
        match self.shapes.get(key) {
            Some(shape) if shape.len() == axes && !shape.contains(&0) => Ok(shape),
            Some(shape) => {
                let reason = format!("{key} has the shape {shape:?}, not {axes} axes of 1 and more");
                Err(Error::WeightFile { file: self.file.to_owned(), reason })
            }
            None => {
                let (missing, unused) = (vec![key.to_owned()], Vec::new());
                Err(Error::TensorKeys { file: self.file.to_owned(), missing, unused })
            }
        }
    }

    /// Entries of the list `prefix`, counted without gaps from 0.
    fn count(&self, prefix: &str) -> usize {
        (0..).take_while(|i| self.any(&format!("{prefix}.{i}."))).count()
    }

    fn any(&self, prefix: &str) -> bool {
        let from = self.shapes.range(prefix.to_owned()..).next();
        from.is_some_and(|(key, _)| key.starts_with(prefix))
    }

    /// `states` features are those of all decoder states of an image.
    fn head(&self, states: usize) -> Result<Head> {
        let proj = self.shapes.get("distill_image_proj.weight");
        let (down, reverse) = (self.any("image_down."), self.any("Reverse_Qformer."));
        let marks = [
            (Head::Mlp, down),
            (Head::Text, self.any("distill_text_proj.")),
            (Head::Qformer, proj.is_some() && reverse),
            (Head::Linear, !down && !reverse && proj.is_some_and(|shape| shape.last() == Some(&states))),
        ];
        let mut heads = marks.iter().filter(|(_, there)| *there);
        let fail = |reason: &str| Err(Error::WeightFile { file: self.file.to_owned(), reason: reason.to_owned() });
        match (heads.next(), heads.next()) {
            (Some(&(head, _)), None) => Ok(head),
            (None, _) => fail(
                "it has no detokenizer: neither image_down, nor Reverse_Qformer, nor distill_text_proj, nor a distill_image_proj of all states",
            ),
            _ => fail("it has keys of more than one detokenizer; files of different models do not belong together"),
        }
    }

    /// The distance of the first two layers with cross-attention; that the others follow is checked by their keys.
    fn cross_attention_every(&self) -> usize {
        let depth = self.count("Qformer.bert.encoder.layer");
        let crosses = |i: &usize| self.any(&format!("Qformer.bert.encoder.layer.{i}.crossattention."));
        (1..depth).find(crosses).unwrap_or(depth.max(1))
    }
}

/// Why a key of an official file has no place in the model, if that is known.
pub(super) fn ignored(key: &str, config: &SeedConfig) -> Option<&'static str> {
    const TEXT: &str = "text branch of the Q-Former, which only training uses";
    if let Some(rest) = key.strip_prefix("Qformer.").or_else(|| key.strip_prefix("Reverse_Qformer.")) {
        if rest == "bert.embeddings.position_ids" {
            return Some("a list of positions, no weight");
        }
        if rest.starts_with("bert.embeddings.word_embeddings")
            || rest.starts_with("bert.embeddings.position_embeddings")
        {
            return Some(TEXT);
        }
        if rest.starts_with("cls.") {
            return Some("language-model head of the Q-Former");
        }
        let part = rest.strip_prefix("bert.encoder.layer.").and_then(|layer| layer.split_once('.'));
        return part.filter(|(_, part)| part.starts_with("intermediate.") || part.starts_with("output.")).map(|_| TEXT);
    }
    if let Some(rest) = key.strip_prefix("visual_encoder.") {
        let block = rest.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        if block.is_some_and(|block| block >= config.vit_depth) {
            return Some("a block after the last one that the model uses");
        }
        let end = ["norm.", "fc_norm.", "head.", "lm_head.", "mask_token"].iter().any(|name| rest.starts_with(name));
        return end.then_some("the vision transformer ends without norm and head here");
    }
    let contrast = ["vision_proj.", "text_proj.", "itm_head.", "temp"].iter().any(|name| key.starts_with(name));
    contrast.then_some("contrast of stage 1, which only training uses")
}
