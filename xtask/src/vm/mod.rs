//! `cargo xtask vm`: the tests on stock Debian kernels, each in a machine of its own.

mod guest;
mod kernels;
mod packages;
mod ramdisk;
mod root;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;

use crate::Outcome;
use crate::command::{build_release, cargo, must_print, target};
use guest::{End, Machine};
use kernels::{BUSYBOX, Kernel, MATRIX};
use packages::Packages;
use root::Root;

/// `cargo xtask vm …`
#[derive(Args)]
pub(crate) struct VmArgs {
    /// Boot this kernel only; may be given more than once.
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// Run only tests with this in their name.
    #[arg(long, value_name = "TEST")]
    filter: Option<String>,
    /// Run this shell command instead of the tests, and show what it prints.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
}

/// A test program.
struct Suite {
    path: PathBuf,
    package: PathBuf,
    source: String,
}

/// Boots the kernels.
pub(crate) fn run(args: &VmArgs) -> anyhow::Result<Outcome> {
    let kernels = chosen(&args.kernels)?;
    let program = build_release()?;
    let suites = build_suites()?;
    let folder = target().join("vm");
    let packages = Packages::new(folder.clone());
    let busybox = packages.files(&BUSYBOX)?.join("bin/busybox");
    let disk = folder.join("root.ext4");
    make_disk(args, &folder, &busybox, &program, &suites, &disk)?;
    let mut good = true;
    for kernel in &kernels {
        let unpacked = packages.kernel(kernel)?;
        let ramdisk = folder.join(format!("{}.cpio", kernel.series));
        ramdisk::make(&unpacked, &busybox, &folder.join("ramdisk").join(kernel.series), &ramdisk)?;
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        let machine = Machine {
            kernel: &unpacked.image,
            ramdisk: &ramdisk,
            disk: &disk,
            log: logs.join(format!("{}.log", kernel.series)),
            accelerator: "tcg,thread=multi",
            processors: 2,
            memory_mib: 2048,
        };
        let start = Instant::now();
        let mut out = std::io::stdout();
        let end = machine.run(Duration::from_secs(1200), |bytes| {
            let _closed = out.write_all(bytes).and_then(|()| out.flush());
        })?;
        let said = std::fs::read_to_string(&machine.log).unwrap_or_default();
        println!("kernel {} ({}): {end:?} after {} s", kernel.series, kernel.why, start.elapsed().as_secs());
        if end == End::Hung || !said.contains("SLUICE-VM-VERDICT") {
            print!("{}", std::fs::read_to_string(machine.console()).unwrap_or_default());
            good = false;
        }
    }
    Ok(if good { Outcome::Done } else { Outcome::Failed })
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Kernel>> {
    if names.is_empty() {
        return Ok(MATRIX.to_vec());
    }
    let find = |name: &String| {
        let known: Vec<&str> = MATRIX.iter().map(|kernel| kernel.series).collect();
        MATRIX
            .into_iter()
            .find(|kernel| kernel.series == name)
            .with_context(|| format!("there is no kernel {name}; there are {}", known.join(", ")))
    };
    names.iter().map(find).collect()
}

/// Builds the tests that look at a kernel, and finds them.
fn build_suites() -> anyhow::Result<Vec<Suite>> {
    let text = must_print(cargo().args([
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
        "--package=sluice",
        "--package=sluice-tests",
    ]))?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    Ok(messages.filter_map(|message| suite(&message)).collect())
}

fn suite(message: &serde_json::Value) -> Option<Suite> {
    let path = PathBuf::from(message["executable"].as_str()?);
    let package = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let source = Path::new(message["target"]["src_path"].as_str()?).strip_prefix(&package).ok()?.display().to_string();
    message["profile"]["test"].as_bool()?.then_some(Suite { path, package, source })
}

fn make_disk(
    args: &VmArgs,
    folder: &Path,
    busybox: &Path,
    program: &Path,
    suites: &[Suite],
    disk: &Path,
) -> anyhow::Result<()> {
    let mut root = Root::new(folder.join("root"), busybox)?;
    let tools = target().join("test-tools");
    root.system(&tools)?;
    root.stripped(program)?;
    let mut list = String::new();
    for suite in suites {
        root.stripped(&suite.path)?;
        list.push_str(&format!("2 {} {} {}\n", suite.package.display(), suite.path.display(), suite.source));
    }
    let variables = [
        ("SLUICE_VM_ROOT", crate::command::root().display().to_string()),
        ("SLUICE_VM_FILTER", args.filter.clone().unwrap_or_default()),
        (sluice_tests::sluice::BINARY_VARIABLE, program.display().to_string()),
        (sluice_tests::needs::TOOLS_VARIABLE, tools.display().to_string()),
    ];
    root.write("vm/environment", &root::exports(&variables))?;
    root.write("vm/init.sh", include_str!("init.sh"))?;
    root.write("vm/suites", &list)?;
    if let Some(command) = &args.exec {
        root.write("vm/exec", command)?;
    }
    root.finish(disk)
}
