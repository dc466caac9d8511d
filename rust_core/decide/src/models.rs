//! Which profile weighs a model's requests.

use crate::settings::SettingsError;
use crate::tokenizers::Tokenizers;
use std::collections::HashMap;
use std::sync::Arc;
use weighbridge_place::Pool;
use weighbridge_weigh::Profile;
use weighbridge_weigh::exact::TokenCounter;

/// What a name has to do with adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adapter {
    /// It is the base model's.
    Not,
    /// The profile lists it: any of the model's replicas can load it.
    OfProfile,
    /// Replicas alone list it: no other knows it.
    OfReplicas,
}

/// A name that requests may ask for.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// The base model's own name: what replicas are grouped by.
    pub(crate) name: Arc<str>,
    /// Whether the name is that of an adapter of the base model.
    pub(crate) adapter: Adapter,
    /// Gives the costs in MU, whichever replica serves.
    pub(crate) reference: Arc<Profile>,
    /// Tokens of the longest sequence that any of its profiles takes.
    pub(crate) longest: u64,
    /// Counts its prompts' tokens, where an operator wants them counted.
    pub(crate) tokenizer: Option<Arc<dyn TokenCounter>>,
}

/// All profiles, by their own name and by the models that they name.
#[derive(Debug)]
pub(crate) struct Models {
    by_name: HashMap<String, Model>,
    profiles: HashMap<String, Arc<Profile>>,
}

impl Models {
    /// A model's reference is the profile that says so, else the first that names it. A tokenizer is
    /// that of the base model, under whichever of its names it is given.
    pub(crate) fn new(
        profiles: Vec<Profile>,
        tokenizers: Tokenizers,
    ) -> Result<Self, SettingsError> {
        let mut models = Self {
            by_name: HashMap::new(),
            profiles: HashMap::new(),
        };
        for profile in profiles {
            profile
                .validate()
                .map_err(|source| SettingsError::Profile {
                    name: profile.name.clone(),
                    source,
                })?;
            let profile = Arc::new(profile);
            let Some(first) = profile.models.first() else {
                return Err(SettingsError::NamesNoModel(profile.name.clone()));
            };
            let name: Arc<str> = models.by_name.get(first).map_or_else(
                || Arc::from(first.as_str()),
                |model| Arc::clone(&model.name),
            );
            let adapters = profile
                .adapters
                .iter()
                .map(|adapter| (adapter, Adapter::OfProfile));
            let served = profile.models.iter().map(|model| (model, Adapter::Not));
            for (alias, adapter) in served.chain(adapters) {
                models
                    .by_name
                    .entry(alias.clone())
                    .or_insert_with(|| Model {
                        name: Arc::clone(&name),
                        adapter,
                        reference: Arc::clone(&profile),
                        longest: 0,
                        tokenizer: None,
                    });
            }
            models.takes(&name, &profile)?;
            if models
                .profiles
                .insert(profile.name.clone(), Arc::clone(&profile))
                .is_some()
            {
                return Err(SettingsError::ProfileTwice(profile.name.clone()));
            }
        }
        for (model, tokenizer) in tokenizers {
            models.set_tokenizer(model, &tokenizer)?;
        }
        Ok(models)
    }

    /// Takes in that replicas of `profile` serve the base model `name`.
    fn takes(&mut self, name: &Arc<str>, profile: &Arc<Profile>) -> Result<(), SettingsError> {
        let known = self.by_name.values().filter(|one| one.name == *name);
        let longest = known.map(|one| one.longest).max().unwrap_or(0);
        let longest = longest.max(profile.longest_sequence());
        for model in self.by_name.values_mut().filter(|one| one.name == *name) {
            model.longest = longest;
            if !profile.reference {
                continue;
            }
            if model.reference.reference && !Arc::ptr_eq(&model.reference, profile) {
                return Err(SettingsError::TwoReferences {
                    model: name.to_string(),
                    one: model.reference.name.clone(),
                    other: profile.name.clone(),
                });
            }
            model.reference = Arc::clone(profile);
        }
        Ok(())
    }

    fn set_tokenizer(
        &mut self,
        model: String,
        tokenizer: &Arc<dyn TokenCounter>,
    ) -> Result<(), SettingsError> {
        let Some(base) = self
            .by_name
            .get(&model)
            .map(|found| Arc::clone(&found.name))
        else {
            let reason = "no profile names this model".to_owned();
            return Err(SettingsError::Tokenizer { model, reason });
        };
        for named in self.by_name.values_mut().filter(|named| named.name == base) {
            named.tokenizer = Some(Arc::clone(tokenizer));
        }
        Ok(())
    }

    /// The names of the base models.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = self
            .by_name
            .values()
            .map(|model| Arc::clone(&model.name))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Model> {
        self.by_name.get(name)
    }

    /// The model of a name that requests may ask for; an adapter's may be one that replicas alone list.
    pub(crate) fn asked(&self, name: &str, pool: &Pool) -> Option<Model> {
        if let Some(model) = self.get(name) {
            return Some(model.clone());
        }
        let base = self.get(pool.base_of(name)?)?;
        Some(Model {
            adapter: Adapter::OfReplicas,
            ..base.clone()
        })
    }

    /// The model that a request means which does not say: the only one there is.
    pub(crate) fn only(&self) -> Option<&Model> {
        let mut all = self
            .by_name
            .values()
            .filter(|model| model.adapter == Adapter::Not);
        let first = all.next()?;
        all.all(|other| other.name == first.name).then_some(first)
    }

    pub(crate) fn profile(&self, name: &str) -> Option<&Arc<Profile>> {
        self.profiles.get(name)
    }
}
