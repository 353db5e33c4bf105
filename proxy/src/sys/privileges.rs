//! What a process may do: names, capabilities, users, the limit on open files.

use std::ffi::CString;
use std::io;

use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

/// Gives this process a name for the process list (at most 15 bytes are shown).
pub fn name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // A name that cannot be set only looks worse.
        let _ = rustix::thread::set_name(&name);
    }
}

/// Raises the soft limit on open files to the hard one; returns it.
///
/// # Errors
/// The limit cannot be set.
pub fn raise_open_files() -> io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(limit.maximum.unwrap_or(1 << 20))
}

/// What the keeper needs after its start: BPF maps and redirects, and starting a gate as another user.
///
/// CAP_SETUID, CAP_SETGID, CAP_SETPCAP and CAP_KILL serve the next gate alone: it must get another user than the
/// keeper's, or it could kill the keeper.
const KEEPER: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL);

/// Gives up every capability that the keeper does not need, in the calling thread. Others must have none by then: the thread
/// that writes log lines begins with [`drop_capabilities_of_thread`].
///
/// # Errors
/// The kernel refuses.
pub fn keep_for_keeper() -> io::Result<()> {
    restrict(KEEPER)
}

/// Gives up all capabilities of the calling thread alone. A thread that has none asks the kernel for nothing: the gate's
/// filter of system calls takes a capset(2) for an intruder's, and does not know capget(2).
///
/// # Errors
/// The kernel refuses.
pub fn drop_capabilities_of_thread() -> io::Result<()> {
    let none = CapabilitySet::empty();
    if !rustix::thread::capabilities(None).is_ok_and(|held| held.permitted != none || held.effective != none) {
        return Ok(());
    }
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Whom the gate runs as, if nobody says otherwise.
const USERS: [&str; 2] = ["sluice-gate", "nobody"];

/// Gives up everything, as the gate must before it reads a stranger's byte: the user, the groups, all capabilities,
/// and the right to ever get any back. Call while the process has one thread. `user`: None for the first that there is
/// of [`USERS`].
///
/// Started as another user than root, there is less to give up, and the user stays.
///
/// # Errors
/// The user does not exist, or the kernel refuses: the gate must not go on then.
pub fn drop_all(user: Option<&str>) -> anyhow::Result<()> {
    use anyhow::Context as _;
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = look_up(user)?;
        restrict(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETPCAP)
            .context("cannot give up capabilities")?;
        clear_bounding_set(CapabilitySet::empty()).context("cannot empty the capability bounding set")?;
        rustix::thread::set_thread_groups(&[]).context("cannot give up supplementary groups")?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).context("cannot change the group")?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).context("cannot change the user")?;
    }
    restrict(CapabilitySet::empty()).context("cannot give up capabilities")?;
    rustix::thread::set_no_new_privs(true).context("cannot set no_new_privs")?;
    Ok(())
}

/// Dies with the parent. Call after the user has changed, which clears the setting.
///
/// # Errors
/// The kernel refuses.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

fn restrict(keep: CapabilitySet) -> io::Result<()> {
    let held = rustix::thread::capabilities(None)?;
    if held.permitted.contains(CapabilitySet::SETPCAP) {
        clear_bounding_set(keep)?;
    }
    let kept = held.permitted & keep;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

fn clear_bounding_set(keep: CapabilitySet) -> io::Result<()> {
    for capability in CapabilitySet::all().iter().filter(|capability| !keep.contains(*capability)) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // EINVAL: this kernel is older than the capability.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a gate could become this user.
///
/// # Errors
/// There is none of that name, or it is root.
pub fn check_user(user: &str) -> anyhow::Result<()> {
    look_up(Some(user)).map(drop)
}

/// A user's ids from /etc/passwd, which is where service users are.
fn look_up(user: Option<&str>) -> anyhow::Result<(Uid, Gid)> {
    use anyhow::Context as _;
    let passwd = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    match user {
        Some(user) => find(&passwd, user)
            .with_context(|| format!("process.user {user:?} is not an unprivileged user in /etc/passwd")),
        None => USERS
            .iter()
            .find_map(|user| find(&passwd, user))
            .with_context(|| format!("/etc/passwd has no unprivileged user {}: set process.user", USERS.join(" or "))),
    }
}

fn find(passwd: &str, user: &str) -> Option<(Uid, Gid)> {
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find_map(|fields| match fields.as_slice() {
            [name, _, uid, gid, ..] if *name == user => Some((uid.parse().ok()?, gid.parse().ok()?)),
            _ => None,
        })
        .filter(|(uid, _)| *uid != 0)
        .map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name_and_root_is_none() {
        let passwd = "root:x:0:0::/:/bin/sh\nsluice:x:7:8::/:/bin/false\nsluice-gate:x:9:10::/:/bin/false\nbad:x:y:z\n";
        assert_eq!(find(passwd, "sluice-gate"), Some((Uid::from_raw(9), Gid::from_raw(10))));
        for user in ["root", "sluice-", "bad", ""] {
            assert_eq!(find(passwd, user), None, "{user}");
        }
    }
}
