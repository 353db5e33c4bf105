//! Debian's packages: fetched once by apt, checked by hash, unpacked without being installed.
//!
//! Everything that apt writes is below `target/vm`, so that the system's own package lists stay as they are and nobody
//! has to be root.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::kernels::{Kernel, Pin, Upstream};
use crate::command::{must_print, must_run};
use crate::ebpf::manifest::sha256;

/// Who vouches for the lists of packages; Debian's package of the same name has it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where the packages of [`super::kernels`] are published.
const SUITES: [(&str, &str); 3] =
    [("debian", "bookworm"), ("debian-security", "bookworm-security"), ("debian", "trixie-backports")];

/// The cache of packages, and apt's own state.
pub(super) struct Packages {
    folder: PathBuf,
    updated: OnceCell<()>,
}

/// An unpacked kernel.
pub(super) struct Unpacked {
    /// Its image.
    pub(super) image: PathBuf,
    /// `…/lib/modules/RELEASE`.
    pub(super) modules: PathBuf,
}

/// What apt says that a package would be.
struct Offer {
    package: String,
    version: String,
    sha256: String,
}

impl Packages {
    /// The cache in this folder.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, updated: OnceCell::new() }
    }

    /// Fetches and unpacks a kernel: the one of the table, or if Debian no longer has that, the newest in its range.
    pub(super) fn kernel(&self, kernel: &Kernel) -> anyhow::Result<Unpacked> {
        let mut offers: Vec<Offer> = kernel.pins.iter().map(Offer::from).collect();
        if !offers.iter().all(|offer| self.is_cached(offer)) && !self.has(&offers)? {
            offers = self.substitute(kernel)?;
        }
        let folders = offers.iter().map(|offer| self.unpacked(offer)).collect::<anyhow::Result<Vec<_>>>()?;
        let find = |wanted: &dyn Fn(&Path) -> Option<PathBuf>| {
            folders.iter().find_map(|folder| wanted(folder)).with_context(|| format!("{folders:?} hold no kernel"))
        };
        Ok(Unpacked { image: find(&image)?, modules: find(&modules)? })
    }

    /// Fetches and unpacks a package; returns its files.
    pub(super) fn files(&self, pin: &Pin) -> anyhow::Result<PathBuf> {
        self.unpacked(&Offer::from(pin))
    }

    fn file(&self, offer: &Offer) -> PathBuf {
        self.folder.join("cache").join(format!("{}_{}.deb", offer.package, offer.version.replace(':', "%3a")))
    }

    fn is_cached(&self, offer: &Offer) -> bool {
        std::fs::read(self.file(offer)).is_ok_and(|bytes| sha256(&bytes) == offer.sha256)
    }

    /// Whether apt can fetch them.
    fn has(&self, offers: &[Offer]) -> anyhow::Result<bool> {
        for offer in offers {
            if !self.offers(&offer.package)?.iter().any(|other| other.version == offer.version) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn unpacked(&self, offer: &Offer) -> anyhow::Result<PathBuf> {
        let file = self.file(offer);
        if !self.is_cached(offer) {
            self.download(offer)?;
        }
        let folder = self.folder.join("unpacked").join(format!("{}-{}", offer.package, &offer.sha256[..16]));
        if folder.is_dir() {
            return Ok(folder);
        }
        let partial = folder.with_extension("partial");
        let _left_by_an_aborted_run = std::fs::remove_dir_all(&partial);
        std::fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        must_run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&partial))?;
        std::fs::rename(&partial, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    fn download(&self, offer: &Offer) -> anyhow::Result<()> {
        let cache = self.folder.join("cache");
        let incoming = cache.join("incoming");
        let _left_by_an_aborted_run = std::fs::remove_dir_all(&incoming);
        std::fs::create_dir_all(&incoming).with_context(|| format!("cannot make {}", incoming.display()))?;
        let what = format!("{}={}", offer.package, offer.version);
        eprintln!("fetching {what}");
        must_run(self.apt("apt-get")?.args(["--quiet", "--quiet", "download", &what]).current_dir(&incoming))?;
        let [file] = &list(&incoming)?[..] else { bail!("apt-get download {what} left no single file") };
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let hash = sha256(&bytes);
        if hash != offer.sha256 {
            bail!("{what} has SHA-256 {hash}, not {}: do not use it", offer.sha256);
        }
        let cached = self.file(offer);
        std::fs::rename(file, &cached).with_context(|| format!("cannot make {}", cached.display()))
    }

    /// One of apt's programs, with lists of its own that are up to date.
    fn apt(&self, program: &str) -> anyhow::Result<Command> {
        if self.updated.get().is_none() {
            self.update()?;
            self.updated.get_or_init(|| ());
        }
        Ok(self.private(program))
    }

    fn private(&self, program: &str) -> Command {
        let folder = self.folder.join("apt");
        let mut command = Command::new(program);
        for (option, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State", "state"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", folder.join(path).display()));
        }
        // Kernels are for this machine's processor, whatever else its apt is set up for; as root, apt would drop to a
        // user who may not write here.
        command.args(["-o", "Dir::Etc::sourceparts=/dev/null", "-o", "APT::Architecture=amd64"]);
        command.args(["-o", "APT::Sandbox::User=root"]).env("LC_ALL", "C");
        command
    }

    fn update(&self) -> anyhow::Result<()> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: install debian-archive-keyring");
        }
        let folder = self.folder.join("apt");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            std::fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let line =
            |(archive, suite)| format!("deb [signed-by={KEYRING}] http://deb.debian.org/{archive} {suite} main\n");
        let sources: String = SUITES.into_iter().map(line).collect();
        std::fs::write(folder.join("sources.list"), sources).context("cannot write apt's sources")?;
        std::fs::write(folder.join("status"), "").context("cannot write apt's status")?;
        eprintln!("updating the lists of Debian's packages in {}", folder.display());
        must_run(self.private("apt-get").args(["--quiet", "--quiet", "update"]))
    }

    /// Every version of a package.
    fn offers(&self, package: &str) -> anyhow::Result<Vec<Offer>> {
        let Ok(text) = must_print(self.apt("apt-cache")?.args(["show", package])) else { return Ok(Vec::new()) };
        Ok(text.split("\n\n").filter_map(Offer::parse).collect())
    }

    /// The newest kernel of the range, as packages of the same names but for the release.
    fn substitute(&self, kernel: &Kernel) -> anyhow::Result<Vec<Offer>> {
        let [low, high] = kernel.range;
        let kinds: Vec<&str> = kernel.pins.iter().map(|pin| kind(pin.package)).collect();
        let first = kinds.first().context("a kernel without packages")?;
        let names = must_print(self.apt("apt-cache")?.args([
            "search",
            "--names-only",
            &format!("^{first}[0-9][0-9.+~deb-]*-cloud-amd64$"),
        ]))?;
        let mut best: Option<(Upstream, Offer)> = None;
        for name in names.lines().filter_map(|line| line.split(' ').next()) {
            for offer in self.offers(name)? {
                let Some(version) = upstream(&offer.version).filter(|version| (low..high).contains(version)) else {
                    continue;
                };
                if best.as_ref().is_none_or(|(highest, _)| *highest < version) {
                    best = Some((version, offer));
                }
            }
        }
        let Some((_, best)) = best else { bail!("Debian has no kernel from {low:?} to below {high:?} any more") };
        eprintln!(
            "note: kernel {}: {} is gone; taking {} instead",
            kernel.series, kernel.pins[0].package, best.package
        );
        let release = best.package.trim_start_matches(first).to_owned();
        let mut offers = vec![best];
        for kind in &kinds[1..] {
            let name = format!("{kind}{release}");
            let mut same = self.offers(&name)?.into_iter().filter(|offer| offer.version == offers[0].version);
            let part = same.next().with_context(|| format!("Debian has no {name} of this version"))?;
            offers.push(part);
        }
        Ok(offers)
    }
}

/// `linux-image-` of `linux-image-6.1.0-56-cloud-amd64`.
fn kind(package: &str) -> &str {
    package.find(|letter: char| letter.is_ascii_digit()).map_or(package, |digit| &package[..digit])
}

/// `6.1.192` of `6.1.192-2`.
fn upstream(version: &str) -> Option<Upstream> {
    let mut numbers = version.split(['-', '~', '+']).next()?.split('.').map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?])
}

impl From<&Pin> for Offer {
    fn from(pin: &Pin) -> Self {
        Self { package: pin.package.into(), version: pin.version.into(), sha256: pin.sha256.into() }
    }
}

impl Offer {
    /// From a paragraph of `apt-cache show`.
    fn parse(paragraph: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.map(str::to_owned)
        };
        Some(Self { package: field("Package")?, version: field("Version")?, sha256: field("SHA256")? })
    }
}

fn list(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    Ok(entries.collect::<Result<Vec<_>, _>>()?.into_iter().map(|entry| entry.path()).collect())
}

/// `lib/modules/RELEASE`, also where `/lib` is `/usr/lib`.
fn release(folder: &Path) -> Option<PathBuf> {
    ["lib/modules", "usr/lib/modules"].iter().find_map(|modules| list(&folder.join(modules)).ok()?.into_iter().next())
}

fn modules(folder: &Path) -> Option<PathBuf> {
    release(folder).filter(|release| release.join("kernel").is_dir())
}

/// `boot/vmlinuz-RELEASE`, or beside the modules where Debian has split the package.
fn image(folder: &Path) -> Option<PathBuf> {
    let boot = list(&folder.join("boot")).unwrap_or_default();
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    boot.into_iter().find(named).or_else(|| Some(release(folder)?.join("vmlinuz")).filter(|path| path.is_file()))
}
