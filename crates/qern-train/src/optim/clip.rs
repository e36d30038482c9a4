//! Clipping by the global norm (Pascanu et al. 2013), as PyTorch's `clip_grad_norm_` does it.

use crate::trainable::Gradients;

/// Scales all gradients down together when their norm is above `max_norm`; `None` only measures. Returns the norm before. A norm
/// that is not finite changes nothing.
pub fn clip(gradients: &mut Gradients, max_norm: Option<f64>) -> f64 {
    // One order of summation, in f64: the norm is the same to the bit on every machine.
    let norm = gradients.iter().flatten().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    if let Some(max_norm) = max_norm {
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            gradients.scale(factor as f32);
        }
    }
    norm
}
