//! Which version of which model the SQL of a session means, and for how long.
//!
//! In a batch query each statement sees the version that is served when it is planned. A stream keeps the version until
//! it asks for another, between two batches: the plan stays the same, and what it holds is exchanged.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use super::{
    artifact::Model,
    live::LiveModel,
    predict::Scorer,
    registry::{Registry, Stored},
};
use crate::{
    catalog::{MODEL, ModelStatement, Vocabulary},
    error::{Error, ErrorKind, Place, Result, nearest},
};

/// Where models are kept, unless something else is said.
pub const DIRECTORY: &str = "models";

/// The options of a model that is declared to be used.
const SERVED: Vocabulary = Vocabulary {
    owner: MODEL,
    names: &["path", "model", "version"],
    aliases: &[("models", "path"), ("revision", "version")],
    foreign: &[
        ("provider", "models of this program are files: name their directory with 'path'"),
        ("task", "models of this program are linear regressions"),
        ("endpoint", "models of this program are files: name their directory with 'path'"),
        ("target", "it belongs to training: add AS SELECT, in `tidemill query`"),
        ("label", "it belongs to training: add AS SELECT, in `tidemill query`"),
        ("features", "it belongs to training: add AS SELECT, in `tidemill query`"),
    ],
    prefix: None,
};

/// The models of a session.
pub struct Models {
    /// A stream's: a model that was found once stays until it is moved.
    keeps: bool,
    default: Mutex<Registry>,
    declared: Mutex<BTreeMap<String, Declared>>,
    kept: Mutex<BTreeMap<String, Arc<Served>>>,
    /// Those that learn while they forecast.
    live: Mutex<BTreeMap<String, Arc<LiveModel>>>,
}

/// `CREATE MODEL` without AS SELECT, or after it.
#[derive(Debug, Clone)]
struct Declared {
    registry: Registry,
    /// As the registry calls it.
    reference: String,
    place: Option<Place>,
}

/// One version of a model, ready to predict.
#[derive(Debug)]
pub struct Version {
    pub stored: Stored,
    pub scorer: Scorer,
}

/// A model that SQL names.
#[derive(Debug)]
pub struct Served {
    /// As the SQL says it.
    pub name: String,
    /// Tells it from others: of a stream without the version.
    pub key: String,
    keeps: bool,
    registry: Registry,
    reference: String,
    current: RwLock<Arc<Version>>,
    /// The newest version that was looked at and not taken, and why.
    refused: Mutex<Option<(u64, String)>>,
}

/// What a look for another version has found.
#[derive(Debug)]
pub enum Look {
    Same,
    /// The model predicts by this version from now on.
    Moved(u64),
    /// There is another one that cannot be used; the one before stays. Said once for each.
    Refused(Error),
}

impl Models {
    /// Of `directory`, for queries: each look-up sees what is served then.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            keeps: false,
            default: Mutex::new(Registry::new(directory)),
            declared: Mutex::default(),
            kept: Mutex::default(),
            live: Mutex::default(),
        }
    }

    /// Of the default directory, for a stream.
    pub fn of_stream() -> Self {
        Self { keeps: true, ..Self::new(DIRECTORY) }
    }

    /// Does a model stay as it was found, until it is moved?
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// Another default directory.
    pub fn set_directory(&self, directory: impl Into<PathBuf>) {
        *lock(&self.default) = Registry::new(directory);
    }

    /// The registry of models that are not declared.
    pub fn registry(&self) -> Registry {
        lock(&self.default).clone()
    }

    /// `CREATE MODEL name [WITH (...)]`: says where a model is, and perhaps which version.
    ///
    /// # Errors
    /// `Invalid` at an option that is wrong, or for a name that is declared already.
    pub fn declare(&self, statement: &ModelStatement) -> Result<()> {
        if let Some(first) = lock(&self.declared).get(&statement.name).filter(|_| !statement.replace) {
            if statement.if_not_exists {
                return Ok(());
            }
            let line = first.place.as_ref().map_or_else(String::new, |place| format!(" (in line {})", place.line));
            let error = Error::invalid(format!("there is a model '{}' already{line}", statement.name));
            return Err(error.at(statement.place.clone()).help("write CREATE OR REPLACE MODEL to declare it anew"));
        }
        if LiveModel::is_declared(statement) {
            let live = LiveModel::declared(statement, &self.registry())?;
            // Its versions are served under the same name.
            self.put(&live.name, live.registry.clone(), live.name.clone(), Some(statement.place.clone()));
            lock(&self.live).insert(live.name.clone(), Arc::new(live));
            return Ok(());
        }
        let mut options = statement.options(SERVED)?;
        let registry = options.not_blank("path")?.map_or_else(|| self.registry(), Registry::new);
        let name = options.not_blank("model")?.unwrap_or_else(|| statement.name.clone());
        super::registry::check_name(&name).map_err(|error| error.at(options.name_place()))?;
        let reference = match options.number("version", 1)? {
            Some(version) => format!("{name}@{version}"),
            None => name,
        };
        options.finish()?;
        self.put(&statement.name, registry, reference, Some(statement.place.clone()));
        Ok(())
    }

    /// Does a CREATE MODEL say where this one is?
    pub fn is_declared(&self, name: &str) -> bool {
        lock(&self.declared).contains_key(name)
    }

    /// A model that was trained in this session is where it was put.
    pub fn trained(&self, statement: &ModelStatement, registry: Registry) {
        self.put(&statement.name, registry, statement.name.clone(), Some(statement.place.clone()));
    }

    fn put(&self, name: &str, registry: Registry, reference: String, place: Option<Place>) {
        lock(&self.declared).insert(name.to_owned(), Declared { registry, reference, place });
    }

    /// The model that SQL calls `NAME`, `NAME@2` or `NAME@newest`.
    ///
    /// # Errors
    /// As `Registry::load`.
    pub fn find(&self, name: &str) -> Result<Arc<Served>> {
        if let Some(served) = lock(&self.kept).get(name) {
            return Ok(Arc::clone(served));
        }
        let (registry, reference) = self.locate(name)?;
        let served = Arc::new(Served::open(name, registry, reference, self.keeps)?);
        if self.keeps {
            lock(&self.kept).insert(name.to_owned(), Arc::clone(&served));
        }
        Ok(served)
    }

    /// The model that SQL calls `name` and that learns while it forecasts.
    ///
    /// # Errors
    /// `NotFound`, with what to declare.
    pub fn live(&self, name: &str) -> Result<Arc<LiveModel>> {
        let live = lock(&self.live);
        if let Some(model) = live.get(name) {
            return Ok(Arc::clone(model));
        }
        let what = match lock(&self.declared).contains_key(name) {
            true => format!("the model '{name}' does not learn while it forecasts: it has no 'horizon'"),
            false => format!("there is no CREATE MODEL {name}"),
        };
        let error = Error::new(ErrorKind::NotFound, what);
        Err(match nearest(name, live.keys().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help(format!(
                "declare what is forecast: CREATE MODEL {name} WITH ('target' = 'close', 'horizon' = '5 minutes')"
            )),
        })
    }

    fn locate(&self, name: &str) -> Result<(Registry, String)> {
        let (plain, revision) = name.split_once('@').map_or((name, None), |(plain, it)| (plain, Some(it)));
        let Some(declared) = lock(&self.declared).get(plain).cloned() else {
            return Ok((self.registry(), name.to_owned()));
        };
        match (revision, declared.reference.split_once('@')) {
            (None, _) => Ok((declared.registry, declared.reference)),
            (Some(revision), None) => Ok((declared.registry, format!("{}@{revision}", declared.reference))),
            (Some(_), Some((_, version))) => {
                let error =
                    Error::invalid(format!("'{name}' names a version, and CREATE MODEL {plain} says {version}"));
                Err(error.help("leave out one of them"))
            }
        }
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Models({})", self.registry().directory().display())
    }
}

impl Version {
    fn new(stored: Stored) -> Result<Self> {
        let scorer = Scorer::new(&stored.model, None)?;
        Ok(Self { stored, scorer })
    }

    /// `sell_price@2`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.stored.model.name, self.stored.revision)
    }
}

impl Served {
    fn open(name: &str, registry: Registry, reference: String, keeps: bool) -> Result<Self> {
        let version = Version::new(registry.load(&reference)?)?;
        let key = match keeps {
            true => format!("{}/{reference}", registry.directory().display()),
            false => version.stored.path.display().to_string(),
        };
        let current = RwLock::new(Arc::new(version));
        Ok(Self { name: name.to_owned(), key, keeps, registry, reference, current, refused: Mutex::default() })
    }

    /// The version that predicts now.
    pub fn current(&self) -> Arc<Version> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a plan calls it: of a stream without the version, which changes while the plan stays.
    pub fn label(&self) -> String {
        if self.keeps { self.reference.clone() } else { self.current().label() }
    }

    /// The number of the version that predicts now.
    pub fn revision(&self) -> u64 {
        self.current().stored.revision
    }

    /// Looks whether the name means another version by now, and takes it if it has the same features and target.
    pub fn look(&self) -> Look {
        let now = self.current();
        let found = match self.registry.find(&self.reference) {
            Ok((_, found)) => found,
            Err(error) => return self.refuse(u64::MAX, error),
        };
        if found == now.stored.revision {
            *lock(&self.refused) = None;
            return Look::Same;
        }
        match self.load(found).and_then(|version| fits(&now.stored.model, &version).map(|()| version)) {
            Ok(version) => {
                *lock(&self.refused) = None;
                self.put(version);
                Look::Moved(found)
            }
            Err(error) => self.refuse(found, error),
        }
    }

    fn refuse(&self, revision: u64, error: Error) -> Look {
        let why = (revision, error.message().to_owned());
        match lock(&self.refused).replace(why.clone()) {
            Some(known) if known == why => Look::Same,
            _ => Look::Refused(error),
        }
    }

    /// Why the version that the name means was not taken at the last look.
    pub fn refusal(&self) -> Option<String> {
        lock(&self.refused).as_ref().map(|(_, why)| why.clone())
    }

    /// Predicts by this version from now on.
    ///
    /// # Errors
    /// As `Registry::load_revision`; `Invalid` if its features are not those that the plan was made for.
    pub fn go_to(&self, revision: u64) -> Result<()> {
        let now = self.current();
        if now.stored.revision == revision {
            return Ok(());
        }
        let version = self.load(revision)?;
        fits(&now.stored.model, &version)?;
        self.put(version);
        Ok(())
    }

    fn load(&self, revision: u64) -> Result<Version> {
        Version::new(self.registry.load_revision(&self.current().stored.model.name, revision)?)
    }

    fn put(&self, version: Version) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(version);
    }
}

/// A version takes the place of another if it has the same features, in the same order, and predicts the same.
fn fits(old: &Model, new: &Version) -> Result<()> {
    let columns = |model: &Model| {
        let of = |column: &super::columns::Column| format!("{} {}", column.name, column.data_type);
        let features: Vec<String> = model.features.iter().map(of).collect();
        format!("predicts {} from {}", model.target.name, features.join(", "))
    };
    let (old, found) = (columns(old), columns(&new.stored.model));
    if old == found {
        return Ok(());
    }
    Err(Error::invalid(format!("the model {} {found}, and the query was planned for one that {old}", new.label()))
        .help("promote a version with these columns, or change the query and start it again"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{ScriptPart, script_parts},
        model::artifact::tests::model,
    };

    fn statement(text: &str) -> ModelStatement {
        match script_parts("a.sql", text).unwrap().remove(0) {
            ScriptPart::Model(model) => model,
            ScriptPart::Sql(sql) => panic!("{sql}"),
        }
    }

    #[test]
    fn a_stream_moves_when_it_looks_and_a_query_always() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::new(directory.path());
        registry.save(model()).unwrap();
        let (stream, query) = (Models::of_stream(), Models::new(directory.path()));
        stream.set_directory(directory.path());
        let served = stream.find("sell").unwrap();
        assert_eq!((served.label(), served.revision()), ("sell".to_owned(), 1));
        registry.save(model()).unwrap();
        registry.promote("sell@1").unwrap();
        assert!(matches!(served.look(), Look::Same));
        registry.promote("sell@2").unwrap();
        assert_eq!(
            (stream.find("sell").unwrap().revision(), query.find("sell").unwrap().label()),
            (1, "sell@2".into())
        );
        assert!(matches!(served.look(), Look::Moved(2)));
        assert_eq!(stream.find("sell").unwrap().revision(), 2);
        served.go_to(1).unwrap();
        assert_eq!(served.revision(), 1);
        let error = served.go_to(7).unwrap_err();
        assert!(error.message().contains("sell/7.json"), "{error}");
        // A pinned one does not move.
        let pinned = stream.find("sell@1").unwrap();
        assert!(matches!(pinned.look(), Look::Same));
    }

    #[test]
    fn another_schema_is_refused_once() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::new(directory.path());
        registry.save(model()).unwrap();
        let models = Models::of_stream();
        models.set_directory(directory.path());
        let served = models.find("sell").unwrap();
        let mut other = model();
        other.features[0].name = "cost".to_owned();
        other.schema_fingerprint = Model::fingerprint(&other.features, &other.target);
        registry.save(other).unwrap();
        let Look::Refused(error) = served.look() else { panic!("refused") };
        assert!(error.message().contains("the model sell@2 predicts sell from cost Float64"), "{error}");
        assert!(matches!(served.look(), Look::Same));
        assert_eq!(served.revision(), 1);
        assert!(served.go_to(2).is_err());
    }

    #[test]
    fn a_declared_model_is_where_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::new(directory.path());
        registry.save(model()).unwrap();
        registry.save(model()).unwrap();
        let models = Models::new("/no/such/place");
        let path = directory.path().display();
        models.declare(&statement(&format!("CREATE MODEL price WITH ('path' = '{path}', model = 'sell')"))).unwrap();
        models
            .declare(&statement(&format!("CREATE MODEL old WITH (path = '{path}', model = 'sell', version = 1)")))
            .unwrap();
        let label = |name: &str| models.find(name).map(|served| served.label());
        assert_eq!((label("price").unwrap(), label("old").unwrap()), ("sell@2".into(), "sell@1".into()));
        assert_eq!(label("price@1").unwrap(), "sell@1");
        assert!(label("old@2").unwrap_err().message().contains("CREATE MODEL old says 1"));
        assert!(label("sell").unwrap_err().message().contains("there is no model 'sell' in /no/such/place"));
        let twice = models.declare(&statement("CREATE MODEL price")).unwrap_err();
        assert!(twice.message().contains("there is a model 'price' already (in line 1)"), "{twice}");
        models.declare(&statement("CREATE MODEL IF NOT EXISTS price")).unwrap();
        assert_eq!(label("price").unwrap(), "sell@2");
        models.declare(&statement("CREATE OR REPLACE MODEL price WITH (model = 'x')")).unwrap();
        assert!(label("price").is_err());
        for (with, wanted) in [
            ("version = 0", "expected a whole number, 1 or more"),
            ("target = 'y'", "the option 'target' is not used here"),
            ("vrsion = 1", "a model has no option 'vrsion'"),
            ("model = '../x'", "cannot be a model's name"),
        ] {
            let error = models.declare(&statement(&format!("CREATE MODEL n WITH ({with})"))).unwrap_err();
            assert!(error.message().contains(wanted) && error.place().is_some(), "{with}: {error}");
        }
    }
}
