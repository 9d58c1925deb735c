//! Stages 1 and 2 by the official objectives, each on the stage before it or on files, to a tokenizer.

use burn::{
    module::{AutodiffModule, ModuleMapper, Param},
    tensor::{Tensor, backend::Backend},
};

use crate::{
    checkpoint::DType,
    error::{Error, Result},
    nn::SeedBackend,
    tokenizer::SeedNetwork,
};

use super::{
    Recipe, TrainModel, begin,
    captions::Captions,
    clip_words::ClipWords,
    data::Data,
    export::Tokenizer,
    model::frozen,
    origin::{self, Encoder, Opening},
    plan::{Plan, Precision},
    replicas::Replicas,
    run::{Session, Stage, TrainBackend},
    stage1::{self, Aligner, Alignment},
    stage2::{self, Coder},
    teacher::Teacher,
};

/// Trains the stages 1 and 2 that the recipe has; nothing when `session` or the recipe ends before there is a tokenizer.
/// `vision` is what the stage vision of this run made.
pub(super) fn tokenizer<A: TrainBackend>(
    recipe: &Recipe,
    vision: Option<TrainModel<A>>,
    data: &Data<'_>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<Option<Tokenizer<A::InnerBackend>>> {
    let vision = vision.map(|model| frozen(&model));
    let aligned = match (&recipe.stage1, &recipe.alignment) {
        (Some(plan), Some(alignment)) => {
            Some(stage_1::<A>(recipe, (plan, alignment), vision.as_ref(), data, session, devices)?)
        }
        _ => None,
    };
    let Some(plan) = recipe.stage2.as_ref().filter(|_| session.until >= Stage::Stage2) else { return Ok(None) };
    let encoder = match aligned {
        Some(encoder) => encoder,
        None => {
            let mut opening = Opening::new(&recipe.from, &recipe.model, &devices[0]);
            let encoder = opening.encoder(of_layers(plan))?;
            opening.account(&session.folder.join(Stage::Stage2.name()))?;
            encoder
        }
    };
    stage_2::<A>(recipe, plan, encoder, vision, data, session, devices).map(Some)
}

/// A model whose every parameter learns: what was made or loaded without gradients does not know of them.
fn learning<A: TrainBackend, M: AutodiffModule<A>>(model: M::InnerModule) -> M {
    struct Learn;
    impl<B: Backend> ModuleMapper<B> for Learn {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            param.map(|value| value.detach().require_grad())
        }
    }
    M::from_inner(model).map(&mut Learn)
}

/// Element type of what is held fixed.
fn of_layers(plan: &Plan) -> DType {
    match plan.precision {
        Precision::F32 => DType::F32,
        Precision::BF16 => DType::BF16,
    }
}

/// Stage 1, and its weights under the released keys in its folder.
fn stage_1<A: TrainBackend>(
    recipe: &Recipe,
    (plan, alignment): (&Plan, &Alignment),
    vision: Option<&TrainModel<A::InnerBackend>>,
    data: &Data<'_>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<Encoder<A::InnerBackend>> {
    let device = &devices[0];
    begin::<A>(Stage::Stage1, recipe, device);
    let captions = Captions::of(&recipe.data)?;
    let mut fresh = Aligner::<A::InnerBackend>::new(&recipe.model, alignment, captions.vocabulary(), device);
    let mut opening = Opening::new(&recipe.from, &recipe.model, device);
    let vit = match vision {
        Some(model) => {
            fresh.ln_vision = model.network.ln_vision.clone();
            model.network.visual_encoder.clone()
        }
        None => opening.vit(of_layers(plan))?,
    };
    let start = opening.aligner(fresh)?;
    let folder = session.folder.join(Stage::Stage1.name());
    opening.account(&folder)?;
    let vit = Replicas::<A, _>::new(vit, devices);
    let inputs = stage1::Inputs { options: alignment, captions: &captions, vit: &vit };
    let model = learning::<A, Aligner<A>>(start);
    let model = stage1::train(plan, &inputs, data, model, session, devices)?.valid();
    origin::save(&model, &folder)?;
    let visual_encoder = vit.on(device).clone();
    Ok(Encoder { visual_encoder, ln_vision: model.ln_vision, causal: model.causal })
}

fn stage_2<A: TrainBackend>(
    recipe: &Recipe,
    plan: &Plan,
    encoder: Encoder<A::InnerBackend>,
    vision: Option<TrainModel<A::InnerBackend>>,
    data: &Data<'_>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<Tokenizer<A::InnerBackend>> {
    let device = &devices[0];
    let options = recipe.need(&recipe.codebook, "codebook", "stage 2 on the official stage 1")?;
    begin::<A>(Stage::Stage2, recipe, device);
    let causal = options.train_qformer.then(|| encoder.causal.clone());
    let model = learning::<A, Coder<A>>(Coder::new(&recipe.model, causal, device));
    let (teacher, words) = teacher::<A::InnerBackend>(recipe, vision, device)?;
    let encoder = Replicas::<A, _>::new(encoder, devices);
    let teacher = Replicas::<A, _>::new(teacher, devices);
    let inputs = stage2::Inputs { options, encoder: &encoder, teacher: &teacher, words: words.as_ref() };
    let model = stage2::train(plan, &inputs, data, model, session, devices)?.valid();
    let Encoder { visual_encoder, ln_vision, causal } = encoder.on(device).clone();
    let causal = model.causal.unwrap_or(causal);
    let (quantizer, detokenizer) = (model.quantizer, model.detokenizer);
    let network = SeedNetwork { visual_encoder, ln_vision, causal, quantizer, detokenizer };
    Ok(Tokenizer::trained(recipe, network, None))
}

/// What stage 2 makes the generation embedding of: what `[from]` names, or the stage vision's image embedding.
pub(super) fn teacher<B: SeedBackend>(
    recipe: &Recipe,
    vision: Option<TrainModel<B>>,
    device: &B::Device,
) -> Result<(Teacher<B>, Option<ClipWords>)> {
    match (&recipe.from.teacher, vision) {
        (Some(folder), _) => Teacher::open(folder, &recipe.model, device),
        (None, Some(TrainModel { network, contrast, .. })) => Ok((Teacher::own(network, contrast), None)),
        (None, None) => Err(Error::Config {
            file: format!("the recipe {:?}", recipe.name),
            reason: "stage 2 needs a teacher: name a folder as teacher in [from], CLIP in transformers' layout or a \
                     bundle with a caption side, or train one in [vision]"
                .to_owned(),
        }),
    }
}
