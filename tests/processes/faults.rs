//! What goes wrong around a processor: a clear message or a limited answer, exit 2 where it cannot
//! go on, and nothing that was acknowledged is lost.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::mount::Mount;
use crate::process::{Home, Processor, until};

const CONFIG: &str = "
[agent]
enabled = false
[log]
min_free_mib = 16
write_buffer_mib = 8
tail_mib = 1
";

/// A post of samples, one of each of so many nodes; `padding` makes them weigh something.
fn samples(first: usize, nodes: usize, padding: usize) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let mut seed = homeostat::runtime::Seed(first as u64);
    let line = |node: usize| {
        let links: Vec<String> = (0..padding)
            .map(|_| {
                format!(
                    "{{\"node_id\":\"{:016x}\",\"latency_ms\":1.5}}",
                    seed.draw()
                )
            })
            .collect();
        format!(
            "{{\"mesh_id\":\"m\",\"node_id\":\"n{node}\",\"time\":{now},\"cpu_percent\":50,\
             \"neighbours\":[{}]}}\n",
            links.join(",")
        )
    };
    (first..first + nodes).map(line).collect()
}

fn post_ok(processor: &Processor, first: usize, nodes: usize) {
    let answer = processor.post(&samples(first, nodes, 0)).unwrap();
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
}

/// The nodes that the event log knows.
fn seen(home: &Home) -> usize {
    home.lines(&["events", "--json", "--type", "NodeSeen"])
        .len()
}

fn agrees(home: &Home) {
    let output = home.ask(&["replay", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["differences"], 0, "{report}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_second_processor_is_refused_and_told_who_holds_the_folder() {
    let home = Home::new("two", CONFIG);
    let first = home.run();
    let second = home.ask(&["run", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(2));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("process {}", first.pid())), "{said}");
    assert!(said.contains("http://127.0.0.1:"), "{said}");
    post_ok(&first, 0, 3);
}

#[test]
fn a_full_disk_answers_503_trims_samples_first_and_loses_nothing_acknowledged() {
    let Some(mount) = Mount::new("full", 64) else {
        return;
    };
    let home = Home::at(mount.0.clone(), CONFIG);
    let processor = home.run();
    post_ok(&processor, 0, 50);
    processor.settle();
    // Somebody else takes the space, and samples come all the same.
    let mut full = false;
    let filler = home.0.join("filler");
    for round in 0..400 {
        let answer = processor.post(&samples(0, 40, 200)).unwrap();
        assert!([200, 503].contains(&answer.status), "{}", answer.status);
        if answer.status == 503 {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(body.contains("min_free_mib"), "{body}");
            full = true;
            break;
        }
        let mut bytes = fs::read(&filler).unwrap_or_default();
        if bytes.len() < 40 << 20 {
            bytes.extend(vec![round as u8; 1 << 20]);
            fs::write(&filler, bytes).unwrap();
        }
    }
    assert!(full, "the door says when the disk is nearly full");
    let ready = processor.get("/readyz").unwrap();
    assert_eq!(ready.status, 503);
    fs::remove_file(&filler).unwrap();
    until(
        Duration::from_secs(20),
        "samples are taken in again",
        || processor.post(&samples(0, 1, 0)).unwrap().status == 200,
    );
    post_ok(&processor, 50, 10);
    processor.settle();
    assert_eq!(seen(&home), 60);
    assert!(processor.stop().success());
    let again = home.run();
    again.settle();
    assert_eq!(seen(&home), 60);
    agrees(&home);
}

#[test]
fn a_disk_without_a_byte_left_is_exit_2_and_the_next_start_goes_on() {
    let Some(mount) = Mount::new("brim", 48) else {
        return;
    };
    let home = Home::at(
        mount.0.clone(),
        &CONFIG.replace("min_free_mib = 16", "min_free_mib = 0"),
    );
    let mut processor = home.run();
    post_ok(&processor, 0, 30);
    processor.settle();
    let filler = home.0.join("filler");
    let mut acknowledged = 30;
    let mut failed = false;
    for _ in 0..2000 {
        // Whatever is left is taken, again and again.
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(&filler)
            .unwrap();
        let block = vec![7; 64 << 10];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        match processor.post(&samples(acknowledged, 20, 100)) {
            Ok(answer) if answer.status == 200 => acknowledged += 20,
            _ => {
                failed = true;
                break;
            }
        }
    }
    assert!(failed, "a disk without room takes nothing");
    let status = processor.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(2), "{}", home.said());
    assert!(home.said().contains("No space left"), "{}", home.said());
    fs::remove_file(&filler).unwrap();
    let again = home.run();
    again.settle();
    assert!(
        seen(&home) >= acknowledged,
        "{} of {acknowledged}",
        seen(&home)
    );
    agrees(&home);
}

#[test]
fn a_read_only_folder_can_be_read_and_not_run() {
    let Some(mount) = Mount::new("read-only", 64) else {
        return;
    };
    let home = Home::at(mount.0.clone(), CONFIG);
    let processor = home.run();
    post_ok(&processor, 0, 5);
    processor.settle();
    assert!(processor.stop().success());
    mount.remount("ro");
    let refused = home.ask(&["run", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("ead-only file system"), "{said}");
    assert_eq!(seen(&home), 5);
    assert_eq!(home.lines(&["state", "--json"]).len(), 5);
    agrees(&home);
    mount.remount("rw");
}

#[test]
fn a_flipped_byte_in_a_file_of_the_log_is_found_and_said() {
    let home = Home::new("flipped", CONFIG);
    let processor = home.run();
    post_ok(&processor, 0, 40);
    processor.settle();
    assert!(processor.stop().success());
    // Brings what lies in the write-ahead log into files.
    assert!(home.run().stop().success());
    let mut files: Vec<_> = fs::read_dir(home.data().join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "sst"))
        .collect();
    files.sort();
    let mut found = 0;
    for file in &files {
        let bytes = fs::read(file).unwrap();
        let mut damaged = bytes.clone();
        damaged[30] ^= 1;
        fs::write(file, &damaged).unwrap();
        for command in [&["replay"][..], &["events", "--json"]] {
            let output = home.ask(command);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if !output.status.success() {
                assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
                assert!(said.contains("orruption"), "{command:?}: {said}");
                found += 1;
            }
        }
        fs::write(file, &bytes).unwrap();
    }
    assert!(
        found > 0,
        "a flipped byte in one of {} files is found",
        files.len()
    );
    assert_eq!(seen(&home), 40);
    agrees(&home);
}

#[test]
fn rows_that_are_gone_are_rebuilt_from_the_log() {
    let home = Home::new("rows-gone", CONFIG);
    let processor = home.run();
    post_ok(&processor, 0, 40);
    processor.settle();
    assert!(processor.stop().success());
    let before = home.lines(&["state", "--json"]);
    drop_family(&home.data().join("log"), "state");
    let processor = home.run();
    post_ok(&processor, 40, 1);
    processor.settle();
    assert!(processor.stop().success());
    let after = home.lines(&["state", "--json"]);
    assert_eq!(after.len(), before.len() + 1);
    agrees(&home);
}

/// Takes a family's rows away.
fn drop_family(path: &Path, name: &str) {
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, path).unwrap();
    let mut db = rocksdb::DB::open_cf(&options, path, &names).unwrap();
    db.drop_cf(name).unwrap();
    db.flush_wal(true).unwrap();
}

#[test]
fn yesterdays_folder_goes_on() {
    let home = Home::new("yesterday", "");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/yesterday");
    fs::copy(golden.join("homeostat.toml"), home.0.join("homeostat.toml")).unwrap();
    fs::create_dir_all(home.data().join("log")).unwrap();
    for entry in fs::read_dir(golden.join("log")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(
            entry.path(),
            home.data().join("log").join(entry.file_name()),
        )
        .unwrap();
    }
    let golden = |name: &str| fs::read_to_string(golden.join(name)).unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let processor = home.run();
    processor.settle();
    let events = home.lines(&["events", "--json"]);
    let was = lines(&golden("events.jsonl"));
    assert_eq!(events[..was.len()], was, "what was decided stands");
    let state: Vec<Value> = home
        .lines(&["state", "--json"])
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let was: Vec<Value> = lines(&golden("state.jsonl"))
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (now, was) in state.iter().zip(&was) {
        for field in [
            "node_id",
            "severity",
            "symptoms",
            "state",
            "phi",
            "interval_s",
            "incident_id",
        ] {
            assert_eq!(now[field], was[field], "{field} of {now}");
        }
    }
    assert_eq!(state.len(), was.len());
    let more = "{\"mesh_id\":\"alpha\",\"node_id\":\"node-0\",\"boot\":1,\"seq\":61,\
                \"time\":1767227500000,\"cpu_percent\":41}";
    assert_eq!(processor.post(more).unwrap().status, 200);
    processor.settle();
    assert!(processor.stop().success());
    agrees(&home);
}

#[test]
fn a_backup_of_a_running_loop_decides_the_same_and_lives_on() {
    let home = Home::new("backup", CONFIG);
    let processor = home.run();
    post_ok(&processor, 0, 20);
    processor.settle();
    let copy = Home::new("backup-copy", CONFIG);
    let target = copy.data();
    let target = target.to_str().unwrap();
    assert!(home.ask(&["backup", target]).status.success());
    let again = home.ask(&["backup", target]);
    assert_eq!(again.status.code(), Some(2), "never over another");
    post_ok(&processor, 20, 5);
    processor.settle();
    agrees(&copy);
    assert_eq!(seen(&copy), 20);
    let restored = copy.run();
    post_ok(&restored, 20, 7);
    restored.settle();
    assert_eq!(seen(&copy), 27);
    assert_eq!(seen(&home), 25);
    assert!(restored.stop().success());
    // Of a folder that nobody holds.
    assert!(processor.stop().success());
    let cold = home.0.join("cold");
    assert!(
        home.ask(&["backup", cold.to_str().unwrap()])
            .status
            .success()
    );
    assert!(cold.join("log/CURRENT").exists());
}
