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

/// Runs the demo and keeps what it records; answers its words and the folder.
fn kept(name: &str) -> (String, String) {
    let dir = format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"));
    if std::path::Path::new(&dir).exists() {
        std::fs::remove_dir_all(&dir).expect("the test's folder is ours");
    }
    let (code, out, err) = homeostat(&["demo", "--seed", "7", "--keep", &dir], &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    (out, dir)
}

#[test]
fn the_demo_tells_an_incident_from_its_beginning_to_its_proof() {
    let (out, _) = kept("demo-told");
    let mut from = 0;
    for words in [
        "MAPE-K cycle  node-1  mesh alpha  2026-01-01T00:00:",
        "  Analyze: ok (phi=1.1",
        "2  A fault",
        "severity ok -> warning: lossy",
        "severity warning -> critical: lossy",
        "ordered aggressive healing",
        "not ordered aggressive healing: budget (1 of 1)",
        "healing applied",
        "aggressive_healing=1_nodes",
        "severity critical -> ok",
        "incident closes, repaired after",
        "ordered route balanced",
        "0 differences",
        "RFC 6962 root of the ",
        ": caught.",
    ] {
        let found = out[from..].find(words);
        from += found.unwrap_or_else(|| panic!("{words:?} after byte {from} of:\n{out}"));
    }
}

#[test]
fn the_same_seed_tells_the_same_but_for_wall_time() {
    let run = || {
        let (_, out, _) = homeostat(&["demo", "--seed", "3", "--json"], &[]);
        assert!(
            out.lines()
                .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
        );
        out
    };
    assert_eq!(run(), run());
}

#[test]
fn what_the_demo_keeps_can_be_replayed_explained_and_looked_at() {
    let (out, dir) = kept("demo-read");
    for flags in [&["--json"][..], &["--json", "--events-only"]] {
        let args = [&["replay", "--dir", &dir][..], flags].concat();
        let (code, line, _) = homeostat(&args, &[]);
        let report: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (code, report["differences"].as_i64()),
            (0, Some(0)),
            "{line}"
        );
        assert!(
            report["decisions"].as_i64() > Some(20) && report["not_judged"] == 0,
            "{line}"
        );
    }
    let id = out
        .split_whitespace()
        .find(|word| word.starts_with("wh-"))
        .unwrap();
    let (code, story, _) = homeostat(&["explain", id, "--dir", &dir], &[]);
    assert_eq!(code, 0);
    for words in [
        "Why alpha/node-2 was not ordered",
        "incident",
        "budget",
        "<- this",
    ] {
        assert!(story.contains(words), "{words:?} in {story}");
    }
    let (code, _, err) = homeostat(&["explain", "dir-0-none", "--dir", &dir], &[]);
    assert!(
        code == 1 && err.contains(id),
        "a wrong id is answered with right ones: {err}"
    );

    let state = |at: &str| {
        let (code, out, _) = homeostat(&["state", "--dir", &dir, "--json", "--at", at], &[]);
        assert_eq!(code, 0);
        let line = out
            .lines()
            .find(|line| line.contains("node-1"))
            .unwrap_or("null")
            .to_owned();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()
    };
    assert_eq!(state("2025-12-31T00:00:00Z"), serde_json::Value::Null);
    assert_eq!(state("2026-01-01T00:01:00Z")["severity"], "ok");
    let ill = state("2026-01-01T00:04:00Z");
    assert_eq!(
        (&ill["severity"], &ill["symptoms"][0]),
        (&"critical".into(), &"lossy".into())
    );
    assert!(
        ill["incident_id"].is_string() && ill["interval_s"] == 10,
        "{ill}"
    );
    assert_eq!(state("2026-01-01T00:10:00Z")["severity"], "ok");
}

#[test]
fn a_changed_byte_of_an_export_is_found_wanting_and_no_export_is_2() {
    let (_, dir) = kept("demo-changed");
    let path = format!("{dir}/events-0.records");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (code, out, err) = homeostat(&["replay", "--dir", &dir], &[]);
    assert!(code == 1 && out.is_empty(), "{code} {out}");
    assert!(
        err.contains("events-0.records") && err.contains("SHA-256"),
        "{err}"
    );
    let (code, _, err) = homeostat(&["replay", "--dir", "/no/such/folder"], &[]);
    assert!(
        code == 2 && err.contains("/no/such/folder") && err.contains("--keep"),
        "{err}"
    );
}

#[test]
fn another_policy_is_tried_on_what_was_recorded() {
    let (_, dir) = kept("demo-policy");
    let shadow = file("shadow.toml", "plan.mode = \"shadow\"");
    let args = ["replay", "--dir", &dir, "--policy", &shadow, "--json"];
    let (code, out, _) = homeostat(&args, &[]);
    let sum: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((code, &sum["more"]), (0, &0.into()), "{out}");
    assert!(sum["less"].as_i64() > Some(5), "{out}");
}

#[test]
fn a_policy_is_compared_with_what_was_decided() {
    let (_, dir) = kept("demo-diff");
    let diff = |policy: &str, more: &[&str]| {
        homeostat(
            &[&["policy", "diff", policy, "--dir", &dir], more].concat(),
            &[],
        )
    };
    let same = file("same.toml", "");
    let (code, out, _) = diff(&same, &[]);
    assert_eq!(code, 0, "{out}");
    assert!(out.ends_with("of 5 nodes folded: no difference\n"), "{out}");

    let shadow = file("diff-shadow.toml", "plan.mode = \"shadow\"");
    let (code, out, err) = diff(&shadow, &[]);
    assert_eq!(code, 1, "{err}");
    assert!(
        out.contains("alpha/node-1  aggressive healing: 1 -> 0"),
        "{out}"
    );
    assert!(
        out.contains("withheld, shadow: 0 -> ") && out.contains("+0 directives, -7"),
        "{out}"
    );
    let (code, out, _) = diff(&shadow, &["--json"]);
    let sum = json_lines(&out).pop().unwrap();
    assert_eq!(
        (code, &sum["less"], &sum["nodes"]),
        (1, &7.into(), &5.into())
    );
    assert_eq!(
        sum["withheld"]["budget"],
        serde_json::json!({"was": 1, "now": 0})
    );
    let (_, out, _) = diff(&shadow, &["--markdown"]);
    assert!(out.starts_with("**+0 directives, -7** ("), "{out}");
    assert!(
        out.contains("| alpha/node-1 | aggressive healing | 1 | 0 |"),
        "{out}"
    );
    // Another mesh's decisions are not compared, nor what was decided before.
    assert_eq!(diff(&shadow, &["--mesh", "beta"]).0, 0);
    assert_eq!(diff(&shadow, &["--since", "1s"]).0, 0);

    let later = file("later.toml", "symptoms.critical_s = 40");
    let (code, out, _) = diff(&later, &["--json"]);
    let sum = json_lines(&out).pop().unwrap();
    assert_eq!(code, 1, "{out}");
    assert_eq!(
        (&sum["healed_later"], &sum["healed_sooner"]),
        (&1.into(), &0.into())
    );
    let (_, out, _) = diff(&later, &[]);
    assert!(
        out.ends_with("+0 directives, -0, 1 node healed later\n"),
        "{out}"
    );

    let bad = file("diff-bad.toml", "[plan]\ncooldown_s = -1\n");
    let (code, out, _) = diff(&bad, &[]);
    assert!(
        code == 1 && out.contains("line 2: plan.cooldown_s"),
        "{out}"
    );
    assert_eq!(diff("no-such-file", &[]).0, 2);
    assert_eq!(diff(&same, &["--since", "yesterday"]).0, 2);
}

#[test]
fn a_page_tells_what_was_decided_and_what_came_of_it() {
    let (_, dir) = kept("demo-report");
    let (code, out, err) = homeostat(&["report", "--dir", &dir], &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    for line in [
        "  healing: 1 ordered, 1 applied; helped 1, did not 0",
        "  budget: 1",
        "  2 opened, 2 repaired, 0 of much of a mesh",
        "  time to repair: median 1 min 2 s, 90 % within 1 min 2 s",
    ] {
        assert!(out.lines().any(|own| own == line), "{line:?} in {out}");
    }
    let (_, out, _) = homeostat(&["report", "--dir", &dir, "--json"], &[]);
    let report = json_lines(&out).pop().unwrap();
    assert_eq!(report["directives"]["healing"]["helped"], 1);
    assert_eq!(report["repair_ms"]["p90"], 62_000);
    assert_eq!(report["withheld"], serde_json::json!({"budget": 1}));
    let (_, out, _) = homeostat(&["report", "--dir", &dir, "--mesh", "beta", "--json"], &[]);
    assert_eq!(json_lines(&out)[0]["incidents"]["opened"], 0);
}

#[test]
fn an_incident_becomes_a_story_that_policies_are_tried_on() {
    let (_, dir) = kept("demo-story");
    let opened = objects(&dir, &["events", "--type", "IncidentOpened"]);
    let id = opened[0]["incident_id"].as_str().unwrap();
    let (code, out, err) = homeostat(&["explain", id, "--as-test", "--dir", &dir], &[]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with(&format!("# {id} of alpha/node-1, ill from ")),
        "{out}"
    );
    for words in [
        "\nagents apply\n",
        " ordered aggressive healing\n",
        " ordered route balanced\n",
    ] {
        assert!(out.contains(words), "{words:?} in {out}");
    }
    assert!(!err.contains("were recorded"), "as many orders: {err}");
    let story = file("incident.txt", &out);
    let (code, told, _) = homeostat(&["policy", "test", &story], &[]);
    assert_eq!(code, 0, "{told}");
    let shadow = file("story-shadow.toml", "plan.mode = \"shadow\"");
    let args = ["policy", "test", "--policy", &shadow, &story];
    assert_eq!(homeostat(&args, &[]).0, 1);
    let args = ["explain", id, "--as-test", "--dir", &dir, "--json"];
    let (_, json, _) = homeostat(&args, &[]);
    assert_eq!(json_lines(&json)[0]["story"].as_str().unwrap(), out);
    let args = ["explain", "inc-0-000000000000", "--as-test", "--dir", &dir];
    assert_eq!(homeostat(&args, &[]).0, 1);
}

#[test]
fn a_story_is_told_under_a_policy() {
    let story = file(
        "story.txt",
        "every 10s for 1m alpha/n1 loss=12\n    00:00:00 n1 seen\n",
    );
    let (code, out, err) = homeostat(&["policy", "test", &story], &[]);
    assert!(code == 1 && out.contains("story.txt:3"), "{out}");
    assert!(err.contains("--write"), "{err}");
    assert_eq!(homeostat(&["policy", "test", "--write", &story], &[]).0, 0);
    assert_eq!(homeostat(&["policy", "test", &story], &[]).0, 0);
    let shadow = file("shadow-story.toml", "plan.mode = \"shadow\"");
    let args = ["policy", "test", &story, "--policy", &shadow, "--json"];
    let (code, out, _) = homeostat(&args, &[]);
    assert!(code == 1 && out.contains("shadow"), "{out}");
    let nonsense = file("nonsense.txt", "dance\n");
    let (code, _, err) = homeostat(&["policy", "test", &nonsense], &[]);
    assert!(
        code == 2 && err.contains("line 1") && err.contains("expected"),
        "{err}"
    );
}

/// An empty folder of the test's own.
fn folder(name: &str) -> String {
    let dir = format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"));
    if std::path::Path::new(&dir).exists() {
        std::fs::remove_dir_all(&dir).expect("the test's folder is ours");
    }
    std::fs::create_dir(&dir).expect("the test's folder is ours");
    dir
}

fn json_lines(out: &str) -> Vec<serde_json::Value> {
    let lines = out.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("one object a line")
}

#[test]
fn config_show_tells_each_value_with_its_origin() {
    let path = file("show.toml", "[log]\nsync_ms = 5\n[plan]\nhelp_s = 20\n");
    let args = ["config", "show", "--config", &path, "--data", "elsewhere"];
    let (code, out, err) = homeostat(&args, &[("HOMEOSTAT_WEB_QUEUE_MAX", "9")]);
    assert_eq!(code, 0, "{err}");
    for line in [
        &format!("sync_ms = 5  (ms, {path})"),
        "dir = \"elsewhere\"  (--data)",
        "queue_max = 9  (records, environment variable HOMEOSTAT_WEB_QUEUE_MAX)",
        "stop_s = 10  (s, default)",
        &format!("help_s = 20  (s, {path})"),
        "[log.keep_days]",
    ] {
        assert!(out.lines().any(|said| said == line), "{line:?} in {out}");
    }
    assert!(err.starts_with("next: "), "{err}");

    let (code, out, _) = homeostat(&[&args[..], &["--json"]].concat(), &[]);
    let lines = json_lines(&out);
    let line = |key: &str| lines.iter().find(|line| line["key"] == key).unwrap();
    assert_eq!(code, 0);
    assert_eq!(line("log.sync_ms")["value"], 5);
    assert_eq!(line("log.sync_ms")["unit"], "ms");
    assert_eq!(line("log.dir")["origin"], "--data");
    assert_eq!(line("plan.mode")["origin"], "default");
    assert_eq!(line("plan.mode")["policy"], true);

    let path = file("show-bad.toml", "[log]\nsync_s = 5\n");
    let (code, out, err) = homeostat(&["config", "show", "--config", &path], &[]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        err.contains("line 2: log.sync_s: unknown key, the nearest is log.sync_ms"),
        "{err}"
    );
}

#[test]
fn config_init_writes_a_file_that_changes_nothing_and_replaces_none_unasked() {
    let path = format!("{}/homeostat.toml", folder("config-init"));
    let init = ["config", "init", "--config", &path];
    let (code, out, err) = homeostat(&init, &[]);
    assert_eq!((code, out.starts_with("written: ")), (0, true), "{err}");
    let (code, out, _) = homeostat(&["config", "show", "--json", "--config", &path], &[]);
    assert_eq!(code, 0);
    assert!(
        json_lines(&out)
            .iter()
            .all(|line| line["origin"] == "default"),
        "{out}"
    );

    std::fs::write(&path, "# mine\n").unwrap();
    let (code, out, err) = homeostat(&init, &[]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains(&path) && err.contains("--force"), "{err}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "# mine\n");
    assert_eq!(homeostat(&[&init[..], &["--force"]].concat(), &[]).0, 0);
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .contains("#sync_ms = 10")
    );
    assert!(!std::path::Path::new(&format!("{path}.partial")).exists());

    let nowhere = ["config", "init", "--config", "/no/such/folder/h.toml"];
    let (code, _, err) = homeostat(&nowhere, &[]);
    assert!(code == 2 && err.contains("/no/such/folder/h.toml"), "{err}");
}

#[cfg(feature = "io")]
mod io {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn shells_complete_and_pages_tell_every_command() {
        for (shell, words) in [
            ("bash", "complete -F"),
            ("zsh", "#compdef homeostat"),
            ("fish", "complete -c homeostat"),
        ] {
            let (code, out, err) = homeostat(&["completions", shell], &[]);
            assert_eq!(code, 0, "{err}");
            assert!(
                out.contains(words) && out.contains("replay"),
                "{shell}: {out}"
            );
        }
        let (code, out, _) = homeostat(&["completions", "no-such-shell"], &[]);
        assert_eq!((code, out.as_str()), (2, ""));

        let dir = format!("{}/pages", folder("man"));
        let (code, _, err) = homeostat(&["man", &dir], &[]);
        assert_eq!(code, 0, "{err}");
        for page in ["homeostat", "homeostat-check", "homeostat-config-init"] {
            let text = std::fs::read_to_string(format!("{dir}/{page}.1")).unwrap();
            assert!(text.contains(".TH"), "{page}: {text}");
        }
        let taken = file("no-folder", "");
        let (code, _, err) = homeostat(&["man", &taken], &[]);
        assert!(code == 2 && err.contains(&taken), "{err}");
    }

    /// Room enough on any machine.
    const ROOM: (&str, &str) = ("HOMEOSTAT_LOG_MIN_FREE_MIB", "0");

    /// And no network looked at.
    const QUIET: [(&str, &str); 2] = [ROOM, ("HOMEOSTAT_AGENT_ENABLED", "false")];

    #[test]
    fn a_machine_where_a_loop_can_run_is_well() {
        let dir = format!("{}/data", folder("check-well"));
        let (code, out, err) = homeostat(&["check", "--data", &dir], &[ROOM]);
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.contains(&format!("{dir} is not there yet")), "{out}");
        assert_eq!(err, format!("next: homeostat run --data {dir}\n"));
        assert!(
            !std::path::Path::new(&dir).exists(),
            "a check makes nothing"
        );

        let (code, out, _) = homeostat(&["check", "--data", &dir, "--json"], &QUIET);
        assert_eq!(code, 0);
        let checks: Vec<_> = json_lines(&out)
            .iter()
            .map(|line| line["check"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            checks,
            [
                "configuration",
                "data folder",
                "tokens",
                "clock",
                "disk",
                "agent"
            ]
        );
        let (code, out, _) = homeostat(&["check", "--data", &dir, "--short"], &QUIET);
        assert_eq!((code, out.lines().count()), (0, 1), "{out}");
        assert!(
            out.starts_with("homeostat: all is well") && out.len() <= 501,
            "{out}"
        );
    }

    #[test]
    fn the_first_fatal_ends_the_check_and_every_red_line_names_what_mends_it() {
        let taken = file("check-taken", "");
        let below = format!("{taken}/data");
        let long = format!("/{}", "x".repeat(700));
        for (args, variable, code, words) in [
            (&["--data", taken.as_str()][..], ROOM, 1, "is not a folder"),
            (&["--data", &below], ROOM, 1, "cannot be read and written"),
            (
                &[],
                ("HOMEOSTAT_LOG_SYNCMS", "1"),
                1,
                "HOMEOSTAT_LOG_SYNC_MS",
            ),
            (&[], ("HOMEOSTAT_LOG_SYNC_MS", "0"), 1, "1 to 1000 ms"),
            (&["--config", "no-such-file"], ROOM, 2, "no-such-file"),
            (&["--config", &long], ROOM, 2, "xxx"),
        ] {
            let args = [&["check"], args].concat();
            let (got, out, _) = homeostat(&args, &[variable]);
            assert_eq!(got, code, "{args:?}: {out}");
            assert!(
                out.contains(words) && out.contains("mend: "),
                "{args:?}: {out}"
            );
            assert!(!out.contains("disk"), "{args:?}: {out}");
            let (got, out, _) = homeostat(&[&args[..], &["--json"]].concat(), &[variable]);
            let last = json_lines(&out).pop().unwrap();
            assert_eq!(got, code);
            assert!(last["mend"].is_string(), "{last}");
            let (got, out, _) = homeostat(&[&args[..], &["--short"]].concat(), &[variable]);
            assert!(
                got == code && out.trim_end().chars().count() <= 500,
                "{out}"
            );
        }
    }

    /// Answers on `dir`'s socket until its test's process ends: what `answer` says to a path.
    fn serve(dir: &str, answer: fn(&str) -> (u16, String)) {
        let listener = UnixListener::bind(format!("{dir}/homeostat.sock")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                // The rest too: what is closed unread is reset.
                let mut header = String::from("more");
                while !header.trim().is_empty() {
                    header.clear();
                    reader.read_line(&mut header).unwrap();
                }
                let (status, body) = answer(line.split(' ').nth(1).unwrap_or_default());
                let mut stream = reader.into_inner();
                // Who asked may be gone.
                let _ = write!(stream, "HTTP/1.0 {status} Whatever\r\n\r\n{body}");
            }
        });
    }

    /// A folder that this process holds, as a loop does.
    fn held(name: &str) -> (String, std::fs::File) {
        let dir = folder(name);
        let lock = std::fs::File::create(format!("{dir}/lock")).unwrap();
        lock.lock().unwrap();
        let card = "{\"pid\":77,\"since\":\"2026-01-01T00:00:00.000Z\",\"listen\":\"[::1]:1\"}";
        std::fs::write(format!("{dir}/holder.json"), card).unwrap();
        (dir, lock)
    }

    #[test]
    fn a_holder_is_named_and_asked() {
        let (dir, _lock) = held("check-held");
        let check = ["check", "--json", "--data", &dir];
        let (code, out, _) = homeostat(&check, &QUIET);
        assert_eq!(code, 1, "nobody listens: {out}");
        assert!(
            out.contains("kill -TERM 77, then homeostat run --data "),
            "{out}"
        );

        serve(&dir, |path| match path {
            "/readyz" => (200, String::new()),
            "/v1/log" => {
                let topic = "{\"topic\":\"events\",\"bytes\":1048576,\"start\":0,\"end\":7,\
                             \"oldest\":\"2026-01-01T00:00:00.000Z\"}";
                let free = 1_u64 << 50;
                (
                    200,
                    format!("{{\"topics\":[{topic}],\"free_bytes\":{free}}}"),
                )
            }
            _ => (404, String::new()),
        });
        let (code, out, err) = homeostat(&check, &QUIET);
        assert_eq!(code, 0, "{out}");
        let lines = json_lines(&out);
        let line = |check: &str| lines.iter().find(|line| line["check"] == check).unwrap();
        let holder = line("data folder")["words"].as_str().unwrap();
        assert!(
            holder.contains("process 77 since 2026-01-01T00:00:00.000Z"),
            "{holder}"
        );
        assert_eq!(line("door")["verdict"], "ok");
        assert_eq!(line("topic")["topic"], "events");
        assert!(line("topic")["days_left"].as_f64() > Some(1.0), "{out}");
        assert_eq!(err, format!("next: homeostat state --data {dir}\n"));
    }

    #[test]
    fn a_door_that_is_not_ready_is_found_wanting_with_its_reasons() {
        let (dir, _lock) = held("check-unready");
        serve(&dir, |path| match path {
            "/readyz" => (503, "disk nearly full\n".to_owned()),
            _ => (404, "no such path".to_owned()),
        });
        let (code, out, _) = homeostat(&["check", "--data", &dir, "--short"], &QUIET);
        assert_eq!(code, 1, "{out}");
        assert!(
            out.contains("disk nearly full") && out.contains("404"),
            "{out}"
        );
    }
}

/// What a command prints about an export with `--json`.
fn objects(dir: &str, args: &[&str]) -> Vec<serde_json::Value> {
    let (code, out, err) = homeostat(&[args, &["--json", "--dir", dir]].concat(), &[]);
    assert_eq!(code, 0, "{args:?}: {err}");
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_topics_of_an_export_are_shown_as_asked_for() {
    let (_, dir) = kept("demo-topics");
    let events = objects(&dir, &["events"]);
    let seqs: Vec<i64> = events.iter().map(|e| e["seq"].as_i64().unwrap()).collect();
    assert_eq!(
        seqs,
        (0..seqs.len() as i64).collect::<Vec<_>>(),
        "one mesh, dense"
    );
    assert!(events.iter().all(|event| event["mesh_id"] == "alpha"));
    let opened = objects(&dir, &["events", "--mesh", ""]);
    assert_eq!(opened[0]["type"], "LogOpened");
    assert!(objects(&dir, &["events", "--mesh", "beta"]).is_empty());
    let issued = objects(&dir, &["events", "--type", "DirectiveIssued"]);
    let directives = objects(&dir, &["directives"]);
    let orders: Vec<_> = issued.iter().map(|event| &event["directive"]).collect();
    assert_eq!(orders, directives.iter().collect::<Vec<_>>());
    let healing = objects(
        &dir,
        &["directives", "--type", "healing", "--node", "node-1"],
    );
    assert!(!healing.is_empty() && healing.len() < directives.len());
    assert!(
        healing
            .iter()
            .all(|order| order["action"]["kind"] == "healing")
    );
    let half = seqs.len() as i64 / 2;
    let later = objects(&dir, &["events", "--from", &half.to_string()]);
    assert_eq!(later, events[half as usize..]);
    let time = events[half as usize]["time"].as_str().unwrap();
    let since = objects(&dir, &["events", "--since", time]);
    let at = events
        .iter()
        .position(|event| event["time"] == time)
        .unwrap();
    assert_eq!(since, events[at..], "from the first of that time on");
    let cycles = objects(&dir, &["cycles", "--type", "critical"]);
    assert!(!cycles.is_empty() && cycles.iter().all(|c| c["severity"] == "critical"));
    assert!(objects(&dir, &["dlq", "list"]).is_empty());
}

#[test]
fn what_people_read_of_topics_is_a_line_each() {
    let (_, dir) = kept("demo-lines");
    for (topic, words) in [
        ("events", "alpha/node-1  seq "),
        ("directives", "alpha/node-1  aggressive healing  (dir-"),
        ("cycles", "critical: lossy"),
    ] {
        let (code, out, err) = homeostat(&[topic, "--dir", &dir], &[]);
        assert_eq!((code, err.as_str()), (0, ""), "{topic}");
        assert!(out.contains(words), "{topic}: {out}");
        let count = objects(&dir, &[topic]).len();
        assert_eq!(out.lines().count(), count, "{topic}");
    }
    let (code, _, err) = homeostat(&["events", "--follow", "--dir", &dir], &[]);
    assert!(code == 0 && err.contains("nothing follows"), "{err}");
    let (code, out, err) = homeostat(&["state", "--watch", "--dir", &dir], &[]);
    assert!(code == 0 && err.contains("nothing changes"), "{err}");
    assert!(
        out.contains("MAPE-K cycle  node-") && out.contains("alpha/node-5"),
        "{out}"
    );
}

#[test]
fn what_cannot_be_read_is_2_with_the_next_step() {
    let (_, dir) = kept("demo-wrong");
    for (args, words) in [
        (
            &["events", "--type", "NodeSen", "--dir", &dir][..],
            "the nearest is NodeSeen",
        ),
        (
            &["cycles", "--type", "bad", "--dir", &dir],
            "ok, warning, critical",
        ),
        (&["events", "--dir", "no-such-export"], "demo --keep DIR"),
        (&["events", "--since", "noon", "--dir", &dir], "RFC 3339"),
        (&["dlq", "show", "x", "--dir", &dir], "names no dead letter"),
        (
            &["replay", "--dir", &dir, "--data", "d"],
            "give one of them",
        ),
        (&["state", "--data", "no-such-folder"], "--dir"),
        (&["dlq", "replay", "--dir", &dir], "--dry-run"),
    ] {
        let (code, out, err) = homeostat(args, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(err.contains(words), "{args:?}: {err}");
    }
    let (code, _, err) = homeostat(&["dlq", "show", "7", "--dir", &dir], &[]);
    assert!(code == 1 && err.contains("dlq list"), "{err}");
}
