//! What the program's tests share: the default model, fetched once through the program's own store, and a stand-in for the
//! model hub on this machine.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod stand_in;

use qern::hub::Progress;
use qern::store::{ModelRef, Store};
use std::path::PathBuf;

/// The default model's GGUF file, fetched into the user's own store if it is not there yet.
pub fn default_model() -> PathBuf {
    let store = Store::open().expect("a store");
    let model = store.resolve(qern::catalogue::DEFAULT_MODEL).expect("the default model is in the catalogue");
    assert!(matches!(model, ModelRef::Catalogue(_)), "a file called `{}` is in the way", qern::catalogue::DEFAULT_MODEL);
    store.locate_or_fetch(&model, Progress::Lines).expect("the default model can be fetched")
}
