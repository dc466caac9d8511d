//! The tokenizers that operators give to models, loaded once for each file.

use crate::settings::SettingsError;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use weighbridge_weigh::exact::TokenCounter;

/// By the name of a model.
pub(crate) type Tokenizers = HashMap<String, Arc<dyn TokenCounter>>;

/// Loads the file of each model.
pub(crate) fn load(files: &BTreeMap<String, String>) -> Result<Tokenizers, SettingsError> {
    let mut loaded: HashMap<&str, Arc<dyn TokenCounter>> = HashMap::new();
    let mut tokenizers = Tokenizers::new();
    for (model, file) in files {
        let counter = match loaded.get(file.as_str()) {
            Some(counter) => Arc::clone(counter),
            None => read(file).map_err(|reason| SettingsError::Tokenizer {
                model: model.clone(),
                reason,
            })?,
        };
        loaded.insert(file, Arc::clone(&counter));
        tokenizers.insert(model.clone(), counter);
    }
    Ok(tokenizers)
}

#[cfg(feature = "exact")]
fn read(file: &str) -> Result<Arc<dyn TokenCounter>, String> {
    use weighbridge_weigh::exact::HuggingFace;
    let tokenizer = HuggingFace::from_file(std::path::Path::new(file));
    tokenizer
        .map(|tokenizer| Arc::new(tokenizer) as Arc<dyn TokenCounter>)
        .map_err(|error| error.to_string())
}

#[cfg(not(feature = "exact"))]
fn read(_: &str) -> Result<Arc<dyn TokenCounter>, String> {
    Err("this build has no tokenizers: build it with the cargo feature `exact`".to_owned())
}
