//! The binary as a script sees it: exit codes, what goes to which stream, broken pipes.

use std::process::{Command, Stdio};

/// Runs the binary in an empty folder; answers exit code, standard output and standard error.
fn homeostat(args: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_homeostat"))
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null())
        .output()
        .expect("the binary was built for this test");
    let text = |bytes| String::from_utf8(bytes).expect("we print UTF-8");
    let code = output.status.code().expect("no signal ends it");
    (code, text(output.stdout), text(output.stderr))
}

/// A file with this text, for the binary to read.
fn file(name: &str, text: &str) -> String {
    let path = format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, text).expect("the test's folder is ours");
    path
}

#[test]
fn bad_usage_is_2_and_speaks_on_standard_error() {
    for args in [
        &[][..],
        &["no-such-command"],
        &["policy"],
        &["policy", "check", "--no-such-flag"],
    ] {
        let (code, out, err) = homeostat(args, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(err.contains("Usage"), "{args:?}: {err}");
    }
}

#[test]
fn help_and_version_are_data() {
    for flag in ["--help", "--version"] {
        let (code, out, err) = homeostat(&[flag], &[]);
        assert_eq!((code, err.as_str()), (0, ""), "{flag}");
        assert!(out.contains("homeostat"), "{out}");
    }
}

#[test]
fn a_policy_is_good_wanting_or_unreadable() {
    let good = file("good.toml", "[plan]\ncooldown_s = 30\n");
    let (code, out, err) = homeostat(&["policy", "check", &good], &[]);
    let expected =
        format!("ok: 1 key given, the rest are defaults\n  plan.cooldown_s = 30  ({good})\n");
    assert_eq!((code, out, err.as_str()), (0, expected, ""));
    let (code, out, _) = homeostat(&["policy", "check", &good, "--json"], &[]);
    assert_eq!((code, out.as_str()), (0, "{\"ok\":true,\"keys\":1}\n"));

    let bad = file("bad.toml", "[plan]\ncooldown_s = -1\n");
    let (code, out, err) = homeostat(&["policy", "check", &bad], &[]);
    let expected =
        format!("found wanting: {bad}: line 2: plan.cooldown_s: -1, expected 0 to 86400\n");
    assert_eq!((code, out), (1, expected));
    assert!(err.starts_with("next: "), "{err}");
    let (code, out, _) = homeostat(&["policy", "check", &bad, "--json"], &[]);
    let expected = format!(
        "{{\"ok\":false,\"origin\":\"{bad}\",\"line\":2,\"key\":\"plan.cooldown_s\",\
         \"problem\":\"-1, expected 0 to 86400\"}}\n"
    );
    assert_eq!((code, out), (1, expected));

    let (code, out, err) = homeostat(&["policy", "check", "no-such-file"], &[]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        err.starts_with("homeostat: reading policy no-such-file, expected TOML in UTF-8: "),
        "{err}"
    );
}

#[test]
fn without_a_file_the_configuration_and_the_environment_are_checked() {
    let config = file("config.toml", "[plan]\nmode = \"shadow\"\n");
    let check = ["policy", "check", "--config", &config];
    let (code, out, _) = homeostat(&check, &[("HOMEOSTAT_PLAN_HELP_S", "7")]);
    assert_eq!(code, 0);
    assert!(
        out.contains("plan.help_s = 7  (environment variable HOMEOSTAT_PLAN_HELP_S)"),
        "{out}"
    );
    let (code, out, _) = homeostat(&check, &[("HOMEOSTAT_PLAN_HELP", "7")]);
    assert_eq!(code, 1);
    assert!(out.contains("HOMEOSTAT_PLAN_HELP_S"), "{out}");
    let (code, _, err) = homeostat(&["policy", "check", "--config", "no-such-file"], &[]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn a_broken_pipe_is_no_error() {
    for args in [&["policy", "check"][..], &["--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_homeostat"))
            .args(args)
            .env_clear()
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("the binary was built for this test");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}
