//! The command line of the built program: what it prints, and its exit codes.
//!
//! **Runs on: any.** Nothing here serves for longer than a failing start takes.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("trine-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, text: &str) -> String {
        let path = self.0.join("trine.toml");
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn trine(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trine")).args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_teaches_and_wrong_arguments_are_64() {
    let help = trine(&["--help"]);
    assert_eq!(code(&help), 0);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for part in ["trine check", "TRINE_DRIVER", "Exit codes", "--listen"] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    for arguments in [&["runn"][..], &["--listen", "nowhere"], &["config"], &["check", "--frob"]] {
        let output = trine(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}: {}", said(&output));
        assert!(!said(&output).is_empty());
    }
    assert_eq!(code(&trine(&["data"])), 64, "the data process is not started by hand");
}

#[test]
fn a_bad_file_is_78_with_every_mistake() {
    let folder = Folder::new("bad");
    let file = folder.file("demmo = 1\n[client]\nanonymous = 3\n");
    for command in ["check", "run", "status"] {
        let output = trine(&[command, "-c", &file]);
        assert_eq!(code(&output), 78);
        let text = said(&output);
        assert!(text.contains("did you mean `demo`?") && text.contains("2 errors"), "{text}");
    }
    let output = trine(&["check", "-c", "/nowhere/trine.toml"]);
    assert_eq!(code(&output), 78);
    assert!(said(&output).contains("/nowhere/trine.toml"), "{}", said(&output));
}

#[test]
fn the_default_file_and_the_examples_pass_the_check() {
    let folder = Folder::new("default");
    let printed = trine(&["config", "default"]);
    assert_eq!(code(&printed), 0);
    let file = folder.file(&String::from_utf8(printed.stdout).unwrap());
    let output = trine(&["check", "-c", &file]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut examples = vec![root.join("trine.example.toml")];
    let files = fs::read_dir(root.join("examples")).unwrap();
    examples.extend(files.map(|file| file.unwrap().path()));
    assert!(examples.len() > 1);
    for example in examples {
        let output = trine(&["check", "-c", example.to_str().unwrap()]);
        assert_eq!(code(&output), 0, "{}", said(&output));
    }
}

#[test]
fn a_busy_port_is_one_line_with_address_and_remedy() {
    let folder = Folder::new("busy");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = folder.file(&format!(
        "runtime_dir = \"run\"\n[listen]\nclient = \"{address}\"\nadmin = \"127.0.0.1:0\"\n\
         [client]\nanonymous = true\n"
    ));
    let output = trine(&["run", "-c", &file]);
    assert_eq!(code(&output), 1);
    let lines: Vec<String> = said(&output).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("in use") && lines[0].contains(&address), "{lines:?}");
    assert!(lines[0].contains("listen.client"), "{lines:?}");
}

#[test]
fn status_without_a_gateway_is_one_line_and_1() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = Folder::new("status");
    let file = folder.file(&format!("[listen]\nadmin = \"{free}\"\n"));
    let output = trine(&["status", "-c", &file]);
    assert_eq!(code(&output), 1);
    assert!(said(&output).contains(&free.to_string()) && said(&output).lines().count() == 1);
}

#[test]
fn what_could_not_be_printed_is_a_failure() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for arguments in [&["config", "default"][..], &["check"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trine"));
        let output = command.args(arguments).stdout(full()).output().unwrap();
        assert_eq!(code(&output), 1, "{arguments:?}");
        assert!(said(&output).contains("standard output"), "{}", said(&output));
    }
}

/// Runs `trine run` with so many descriptors allowed, on an address that is taken, so that it ends.
fn with_descriptors(name: &str, count: u32) -> Output {
    let folder = Folder::new(name);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let file = folder.file(&format!(
        "runtime_dir = \"run\"\n[listen]\nclient = \"{address}\"\nadmin = \"127.0.0.1:0\"\n\
         [client]\nanonymous = true\n"
    ));
    let script = format!("ulimit -n {count} && exec \"$0\" run -c \"$1\"");
    let program = env!("CARGO_BIN_EXE_trine");
    Command::new("sh").args(["-c", &script, program, &file]).output().unwrap()
}

#[test]
fn only_too_few_descriptors_keep_it_from_starting() {
    let output = with_descriptors("few", 255);
    assert_eq!(code(&output), 1);
    let text = said(&output);
    assert!(text.contains("only 255 file descriptors") && text.contains("ulimit"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    // With just enough it comes as far as the address that is taken.
    let text = said(&with_descriptors("enough", 256));
    assert!(text.contains("in use"), "{text}");
}
