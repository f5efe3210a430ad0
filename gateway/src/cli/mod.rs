//! The command line: what to run, with which configuration, and the exit code.
//!
//! **Runs on: control**, before anything is started. Exit codes: 0 done, 1 it failed while
//! running, 64 the command line is wrong, 78 the configuration is.

mod journal;
mod resources;
mod status;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config};

/// The command line is wrong (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// The configuration is wrong (`EX_CONFIG`).
const CONFIG: u8 = 78;

/// An edge gateway for real-time services.
///
/// Without a command and without a file it serves on loopback with everything open, to try it: a
/// page with chat and tickets at http://127.0.0.1:8000/ and metrics at
/// http://127.0.0.1:8001/metrics.
#[derive(Debug, Parser)]
#[command(name = "trine", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  trine                                  try it on loopback
  trine config default > trine.toml      a file with every key and its default
  trine check -c trine.toml              say everything that is wrong with it
  trine run -c trine.toml                run it
  trine status -c trine.toml             what runs now

Environment:
  TRINE_DRIVER=epoll    use epoll where io_uring would be used

Exit codes:
  0 done   1 failed while running   64 wrong command line   78 wrong configuration";

#[derive(Debug, Args)]
struct Options {
    /// Configuration file; without one the embedded default runs
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect, instead of listen.client; operators connect to the next port
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until it is asked to stop (the default)
    Run,
    /// Check a configuration and say everything that is wrong with it
    Check,
    /// Work with configuration files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show what runs now
    Status,
    /// Look at the files of a journal, and mend them
    Journal {
        #[command(subcommand)]
        command: journal::Command,
    },
    /// The data process; started by trine itself
    #[command(hide = true)]
    Data,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print a file with every key, its default and its meaning
    Default,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let code = obey();
    crate::logs::end();
    code
}

fn obey() -> ExitCode {
    // The allocator asks for huge pages, and one is taken whole for the first byte in it. It made no
    // difference to the CPU a message costs, and doubled what a connection keeps. The data process
    // inherits it; a kernel that knows no huge pages refuses, which is as good.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let options = arguments.options;
    match arguments.command.unwrap_or(Command::Run) {
        Command::Data => crate::data::main(),
        Command::Config { command: ConfigCommand::Default } => print(&config::default_file()),
        Command::Journal { command } => journal::main(&command),
        Command::Check => with_config(&options, |config| check(&options, config)),
        Command::Status => with_config(&options, |config| status::show(&config)),
        Command::Run => with_config(&options, run),
    }
}

fn with_config(options: &Options, with: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match load(options) {
        Ok(config) => with(config),
        Err(reason) => {
            complain(&reason);
            CONFIG.into()
        }
    }
}

/// The configuration that the options name.
fn load(options: &Options) -> Result<Config, String> {
    let mut config = match &options.config {
        None => Config::embedded(),
        Some(path) => read(path)?,
    };
    if let Some(listen) = options.listen {
        // The operators' address follows unless the file has set it apart.
        if config.listen.admin == config::next_port(config.listen.client) {
            config.listen.admin = config::next_port(listen);
        }
        config.listen.client = listen;
        if let Some((one, other)) = config.listeners_in_conflict().first() {
            return Err(format!(
                "--listen {listen}: listen.{one} and listen.{other} have the same address; give \
                 another, or set them apart in the file"
            ));
        }
    }
    Ok(config)
}

fn read(path: &Path) -> Result<Config, String> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{name}: {error}; give a readable file in UTF-8 with -c"))?;
    let mut config =
        config::parse(&name.to_string(), &text).map_err(|problems| problems.to_string())?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
    config.runtime_dir = folder.join(&config.runtime_dir);
    config.data_dir = folder.join(&config.data_dir);
    Ok(config)
}

fn check(options: &Options, config: Config) -> ExitCode {
    for warning in config.warnings() {
        complain(&format!("warning: {warning}"));
    }
    let name = options
        .config
        .as_ref()
        .map_or("embedded default".into(), |path| path.display().to_string());
    print(&format!("{name}: ok\n"))
}

/// Prints what was asked for. Who stops reading has seen enough.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn run(config: Config) -> ExitCode {
    crate::logs::start(&config.logs);
    match crate::log::refuse_left(&config).and_then(|()| resources::prepare()) {
        Ok(lacking) => {
            let mut warnings = [config.warnings(), lacking].concat();
            warnings.extend(warning_of_driver());
            crate::control::run(config, &warnings)
        }
        Err(reason) => {
            complain(&reason);
            ExitCode::FAILURE
        }
    }
}

/// A driver that nobody knows is not asked for.
fn warning_of_driver() -> Option<String> {
    let driver = std::env::var("TRINE_DRIVER").ok()?;
    let is_known = ["", "io_uring", "epoll"].contains(&&*driver);
    (!is_known).then(|| format!("TRINE_DRIVER={driver} means nothing; it may be io_uring or epoll"))
}

fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "trine: {line}");
}
