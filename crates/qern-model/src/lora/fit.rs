//! What an adapter needs of its base's weights: that they are those it was trained on, and the norms of DoRA.

use qern_kernels::low_rank::row_norms;
use qern_kernels::matrix::PackedMatrix;

use super::{Adapter, Projection, Site};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::transformer::Transformer;
use crate::weights::Weights;

/// How strict `Adapter::fit` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FitOptions {
    /// Run the adapter although it says that it was trained on another model.
    pub any_base: bool,
}

impl Adapter {
    /// Prepares the adapter for a transformer, once: refuses a base that it was not trained on, and computes what DoRA needs,
    /// which for a large model takes seconds. A running model does this when an adapter is loaded; whoever does it before, on
    /// another thread, keeps the model's requests from waiting.
    ///
    /// Returns what the reader should know.
    pub fn fit(&self, transformer: &Transformer, options: FitOptions) -> Result<Vec<String>> {
        if &self.config != transformer.config() {
            return Err(Error::Adapter("it was opened for a model with another configuration; open it for this one".into()));
        }
        let base = transformer.weights().fingerprint(transformer.config());
        if let Some(fitted) = self.fitted.get() {
            return if *fitted == base {
                Ok(Vec::new())
            } else {
                Err(Error::Adapter(format!("it is fitted to the base {fitted} already, and this one is {base}; open it again")))
            };
        }
        let notes = self.check_fingerprint(base, options)?;
        for (site, addition) in self.additions() {
            let Some(magnitude) = &addition.magnitude else { continue };
            let weights = matrix(transformer.weights(), site);
            let norms = row_norms(transformer.pool(), transformer.isa(), weights, &addition.a, &addition.b, addition.scale);
            let gain: Vec<f32> = magnitude.iter().zip(&norms).map(|(magnitude, norm)| magnitude / norm).collect();
            if let Some(row) = gain.iter().position(|gain| !gain.is_finite()) {
                return Err(Error::Adapter(format!(
                    "DoRA divides by the norm of output {row} of `{site}`, which is {}; the adapter or the base is broken",
                    norms[row]
                )));
            }
            // Two threads may come here at once; both computed the same.
            _ = addition.gain.set(gain);
        }
        _ = self.fitted.set(base);
        Ok(notes)
    }

    fn check_fingerprint(&self, base: Fingerprint, options: FitOptions) -> Result<Vec<String>> {
        let Some(recorded) = &self.fingerprint else {
            return Ok(vec!["the adapter does not say which base it was trained on; only its shapes were checked".into()]);
        };
        let recorded: Fingerprint = recorded.parse()?;
        let other = format!("the adapter was trained on another base: it records {recorded}, and this one is {base}");
        match (recorded.model == base.model, recorded.weights == base.weights) {
            (true, true) => Ok(Vec::new()),
            (true, false) => Ok(vec![format!(
                "the adapter was trained on this base in another format, or on a fine-tuned version of it ({recorded}, this one is {base})"
            )]),
            (false, _) if options.any_base => Ok(vec![other]),
            (false, _) => Err(Error::Adapter(format!("{other}; force it if you know that it fits"))),
        }
    }
}

/// The base's matrix at a place.
pub(crate) fn matrix(weights: &Weights, site: Site) -> &PackedMatrix {
    let Site::Layer(layer, projection) = site else {
        return if site == Site::Head { weights.lm_head().weight } else { &weights.embed_tokens };
    };
    let layer = &weights.layers[layer];
    let linear = match projection {
        Projection::Q => &layer.q_proj,
        Projection::K => &layer.k_proj,
        Projection::V => &layer.v_proj,
        Projection::O => &layer.o_proj,
        Projection::Gate => &layer.gate_proj,
        Projection::Up => &layer.up_proj,
        Projection::Down => &layer.down_proj,
    };
    &linear.weight
}
