//! `trine status`: asks the admin listener what runs.
//!
//! **Runs on: any**, beside the gateway. One request over plain HTTP with a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

use crate::admin::Status;
use crate::config::Config;
use crate::limits::STATUS_TIMEOUT;

/// Prints what the gateway with this configuration says of itself.
pub(super) fn show(config: &Config) -> ExitCode {
    let admin = config.listen.admin;
    let status = ask(admin).and_then(|body| {
        serde_json::from_str::<Status>(&body)
            .map_err(|error| format!("what answers there is no trine: {error}"))
    });
    match status {
        Ok(status) => {
            let _ = write!(io::stdout(), "{}", describe(&status));
            ExitCode::SUCCESS
        }
        Err(reason) => {
            super::complain(&format!(
                "no status from {admin}: {reason}; is it running with this listen.admin?"
            ));
            ExitCode::FAILURE
        }
    }
}

fn ask(admin: SocketAddr) -> Result<String, String> {
    let exchange = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&admin, STATUS_TIMEOUT)?;
        stream.set_read_timeout(Some(STATUS_TIMEOUT))?;
        stream.set_write_timeout(Some(STATUS_TIMEOUT))?;
        write!(stream, "GET /status HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(1 << 20).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err("the answer is no status".to_owned()),
    }
}

fn describe(status: &Status) -> String {
    let data = status.data_pid.map_or("none".to_owned(), |pid| format!("pid {pid}"));
    let adopted = if status.adopted { ", adopted" } else { "" };
    let mut text = format!(
        "build       {}\ncontrol     pid {}\ndata        {data}{adopted}, up {} s, {} restarts\n\
         config      {} (generation {})\ndriver      {}\n",
        status.build,
        status.control_pid,
        status.uptime_s,
        status.restarts,
        status.config_fingerprint,
        status.generation,
        status.driver,
    );
    text.push_str("shard  cpu  connections  sessions  channels  subscriptions  busy\n");
    for shard in &status.shards {
        let cpu = shard.cpu.map_or("-".to_owned(), |cpu| cpu.to_string());
        text.push_str(&format!(
            "{:5}  {cpu:>3}  {:11}  {:8}  {:8}  {:13}  {:3.0}%\n",
            shard.index,
            shard.connections,
            shard.sessions,
            shard.channels,
            shard.subscriptions,
            shard.utilisation * 100.0,
        ));
    }
    text
}
