//! The bundled model as bytes: trained by this workspace's own recipe, see `MODEL_CARD.md` beside it.

/// Files of the bundle "scenes-tiny": relative name and content.
pub static SCENES_TINY: &[(&str, &[u8])] = &[];
