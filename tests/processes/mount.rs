//! A small disk of a test's own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A file system of its own, unmounted at its end; needs root, as CI is.
pub struct Mount(pub PathBuf);

impl Mount {
    /// `None`, said loudly, where this user may not mount; in CI that is a failure.
    pub fn new(name: &str, mib: u32) -> Option<Self> {
        let dir = std::env::temp_dir().join(format!("homeostat-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&dir)
            .output()
            .unwrap();
        if mounted.status.success() {
            return Some(Mount(dir));
        }
        let why = String::from_utf8_lossy(&mounted.stderr).into_owned();
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must be able to mount: {why}"
        );
        eprintln!("SKIPPED: a file system of a test's own needs root: {why}");
        None
    }

    /// Mounts it anew with other options.
    pub fn remount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}
