//! The file's reader: defaults, every kind of mistake, and arbitrary text.
//!
//! **Runs on: any.**

use proptest::prelude::*;

use super::*;

fn problems(text: &str) -> String {
    match parse("trine.toml", text) {
        Ok(_) => panic!("this should be refused: {text}"),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(parse("trine.toml", "").unwrap(), Config::with_file_defaults());
}

#[test]
fn the_defaults_are_those_that_operators_and_clients_were_promised() {
    let config = Config::embedded();
    assert_eq!(config.listen.client.to_string(), "127.0.0.1:8000");
    assert_eq!(config.listen.admin.to_string(), "127.0.0.1:8001");
    assert_eq!(config.listen.echo, None);
    assert_eq!((config.client.anonymous, config.demo, &*config.api.key), (true, true, ""));
    // Who gives a file says in it who may connect.
    let file = Config::with_file_defaults();
    assert_eq!((file.client.anonymous, file.demo, file.embedded_default), (false, false, false));
    let client = &config.client;
    assert_eq!((client.ping_interval_ms, client.pong_timeout_ms), (25_000, 8_000));
    assert_eq!((client.stale_close_delay_ms, client.head_timeout_ms), (10_000, 10_000));
    assert_eq!((client.channels_limit, client.in_flight), (128, 64));
    assert_eq!((client.message_limit_bytes, client.outbox_limit_bytes), (65_536, 1_048_576));
    assert_eq!(trine_proto::ws::Limits::default().fragments, 128);
    assert_eq!(config.broker.history_limit_bytes, 268_435_456);
    assert_eq!((config.log.timeout_ms, config.spool.after_ms), (3_000, 500));
    let namespace = &config.namespaces[0];
    assert_eq!(namespace.payload, Payload::Json);
    assert_eq!(namespace.message_limit_bytes, 65_536);
    assert_eq!(namespace.history_meta_ttl_ms, 30 * 86_400_000);
    assert_eq!(config.logs, Logs { level: LogLevel::Info, format: LogFormat::Json });
}

#[test]
fn the_default_file_says_the_defaults_commented_out_or_not() {
    let text = default_file();
    assert_eq!(parse("default", &text).unwrap(), Config::with_file_defaults());
    // An example entry, which lasts until an empty line, stays one.
    let mut example = false;
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| {
            example = !line.is_empty() && (example || line.starts_with("# [["));
            match line.strip_prefix("# ") {
                Some(key) if !example && key.contains(" = ") && !key.contains(['`', '…']) => key,
                _ if line.starts_with('#') => "",
                _ => line,
            }
        })
        .collect();
    assert!(uncommented.contains(&"demo = false"), "{uncommented:?}");
    let config = parse("default", &uncommented.join("\n")).unwrap();
    assert_eq!(config, Config::with_file_defaults());
}

#[test]
fn every_key_is_read() {
    let text = r#"
        runtime_dir = "/run/desk"
        demo = true
        [listen]
        client = "0.0.0.0:80"
        echo = "127.0.0.1:9000"
        [shards]
        count = 2
        cpus = [0, 2, 4]
        keep_awake = false
        [client]
        anonymous = true
        ping_interval_ms = 2_000
        pong_timeout_ms = 500
        allowed_origins = ["https://desk.example"]
        [broker]
        history_limit_bytes = 0x100_0000
        [logs]
        level = "debug"
        format = "text"
        [log]
        kind = "kafka"
        partitions = 8
        timeout_ms = 500
        [kafka]
        watch_groups = ["billing"]
        [[rpc]]
        method = "create"
        topic = "tickets"
        [[rpc]]
        method = "note"
        topic = "notes"
        key = "/ticket/id"
        [channel]
        publish = "subscribers"
        [[namespace]]
        name = "room"
        history_size = 10
        history_ttl_ms = 1000
        recovery = true
        payload = "binary"
        [[namespace]]
        name = "ticket"
    "#;
    let config = parse("trine.toml", text).unwrap();
    assert_eq!(config.listen.admin, "0.0.0.0:81".parse().unwrap());
    assert_eq!(config.listen.echo, Some("127.0.0.1:9000".parse().unwrap()));
    let cpus = Some(vec![0, 2, 4]);
    assert_eq!(config.shards, Shards { count: Some(2), cpus, keep_awake: false });
    assert_eq!((config.client.ping_interval_ms, config.client.pong_timeout_ms), (2000, 500));
    assert_eq!(config.broker.history_limit_bytes, 16 << 20);
    assert_eq!(config.logs, Logs { level: LogLevel::Debug, format: LogFormat::Text });
    assert_eq!((config.log.partitions, config.log.timeout_ms), (8, 500));
    assert_eq!(config.kafka.watch_groups, ["billing"]);
    let routes: Vec<_> =
        config.rpcs.iter().map(|r| (&*r.method, &*r.route.topic, &r.route.key)).collect();
    let pointer = RecordKey::Pointer("/ticket/id".to_owned());
    assert_eq!(routes, [("create", "tickets", &RecordKey::None), ("note", "notes", &pointer)]);
    let names: Vec<&str> = config.namespaces.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["", "room", "ticket"]);
    assert_eq!(config.namespaces[0].publish, Access::Subscribers);
    assert_eq!(config.namespaces[1].payload, Payload::Binary);
    assert_eq!(Config::from_wire(&config.to_wire()).unwrap(), config);
}

#[test]
fn all_mistakes_are_told_at_once_with_line_and_remedy() {
    let text = "demmo = true\n[client]\nanonymous = 1\nin_flight = 0\nping_interval_ms = 5\n\
        pong_timeout_ms = 5\n[logs]\nlevel = \"inform\"\n[[rpc]]\nmethod = \"x\"\nkey = \"channel\"\n[channel]\nrecovery = true\n\
        [[namespace]]\nsubscribe = \"all\"\n";
    let said = problems(text);
    for part in [
        "did you mean `demo`?",
        "trine.toml:1:1",
        "true or false",
        "trine.toml:3:",
        "a whole number from 1 to 1024",
        "a pong must be due before the next ping",
        "did you mean `info`?",
        "`recovery` needs history",
        "this namespace has no name",
        "this rpc has no topic",
        "an rpc has no channel",
        "nobody, subscribers, clients, anonymous",
        "10 errors",
    ] {
        assert!(said.contains(part), "{part} is missing:\n{said}");
    }
    assert!(said.contains('^'), "{said}");
}

#[test]
fn hints_name_what_is_known_there_and_follow_up_errors_stay_away() {
    let said =
        problems("[[consumer]]\nname = \"a\"\ntopic = \"b\"\nretri = {}\nto.topik = \"c\"\n");
    for part in ["did you mean `topics`?", "did you mean `retry`?", "did you mean `topic`?"] {
        assert!(said.contains(part), "{part} is missing:\n{said}");
    }
    let said =
        problems("[[upstream]]\nname = \"a\"\nendpoints = [\"127.0.0.1:80\"]\nsomething = 1\n");
    assert!(said.contains("known are") && !said.contains("partitioner"), "{said}");
    let said = problems("[[namespace]]\nname = \"ro:om\"\n[log]\nkind = \"postgresql\"\n");
    assert!(!said.contains("there already"), "{said}");
    assert_eq!(said.matches("embedded").count(), 1, "{said}");
    let said = problems("[[rpc]]\nmethod = \"a\"\ntopic = \"a b\"\nkey = \"user\"\n");
    assert!(!said.contains("means nothing"), "{said}");
}

#[test]
fn the_examples_of_the_default_file_are_right() {
    let text = default_file();
    let examples = text.split("\n\n").filter_map(|block| {
        let at = block.find("# [[")?;
        Some(block[at..].lines().filter(|line| line.contains(" = ") || line.starts_with("# [")))
    });
    let lines: Vec<&str> = examples.flatten().map(|line| line.trim_start_matches("# ")).collect();
    let config = parse("examples", &lines.join("\n")).unwrap();
    assert_eq!((config.rpcs.len(), config.consumers.len(), config.upstreams.len()), (1, 2, 1));
    let night = &config.consumers[1].schedule;
    assert_eq!((&night.at[..], night.records, night.rate_per_s), (&[120][..], 1_000, 200));
    let defaults = Consumer::default();
    let consumer = &config.consumers[0];
    assert_eq!((&consumer.retry, &consumer.lag), (&defaults.retry, &defaults.lag));
    assert_eq!(consumer.to.channel.as_ref().map(|to| to.as_str()), Some("user:{key}"));
}

#[test]
fn mistakes_of_each_kind_are_refused() {
    const WATCHED: &str = "[kafka]\nwatch_groups = [\"billing\"]\n";
    const RPC: &str = "[[rpc]]\nmethod = \"a\"\ntopic = \"a\"\n";
    const CONSUMER: &str = "[[consumer]]\nname = \"a\"\ngroup = \"a\"\ntopics = [\"a\"]\n";
    const CALLER: &str = "[[upstream]]\nname = \"b\"\nendpoints = [\"127.0.0.1:80\"]\n\
        [[consumer]]\nname = \"a\"\ngroup = \"a\"\ntopics = [\"a\"]\nto.upstream = \"b\"\n";
    for (text, part) in [
        ("listen = 1", "write [listen]"),
        ("namespace = 1", "write [[namespace]]"),
        ("[channel]\nname = \"a\"", "no key `name`"),
        ("[listen]\nclient = \"localhost\"", "an IP address with its port"),
        ("[listen]\nclient = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:1\"", "the same address"),
        ("[listen]\necho = \"127.0.0.1:8000\"", "listen.echo and listen.client need one each"),
        ("[listen]\necho = \"127.0.0.1:8002\"\n[api]\nkey = \"k\"", "listen.echo and listen.api"),
        ("[listen]\nclient = \"127.0.0.1:65535\"", "trine.toml:2:10"),
        ("[shards]\ncount = 3\ncpus = [0]", "more shards than CPUs"),
        ("[shards]\ncpus = [0, 0]", "each once"),
        ("[shards]\ncpus = []", "each once"),
        ("[client]\nallowed_origins = [\"*\"]", "a list of origins"),
        ("[client]\nin_flight = 1.5", "a whole number"),
        ("[client]\nin_flight = -1", "a whole number"),
        ("[channel]\nforce_recovery = true", "`force_recovery` needs history"),
        ("[channel]\npositioning = true", "`positioning` needs history"),
        ("[channel]\nforce_positioning = true", "`force_positioning` needs history"),
        ("[channel]\nhistory_size = 1\nrecovery = true", "history_ttl_ms above 0"),
        ("[channel]\nmessage_limit_bytes = 70000", "at most client.message_limit_bytes"),
        ("[[namespace]]\nname = \"a b\"", "1 to 64"),
        ("[[namespace]]\nname = \"a\"\n[[namespace]]\nname = \"a\"", "there already"),
        (WATCHED, "it needs log.kind = \"kafka\""),
        (&format!("[log]\nkind = \"embedded\"\n{WATCHED}"), "trine.toml:4:16"),
        (&format!("{WATCHED}[log]\nkind = \"embedded\""), "^^^^^^^^^^^ it needs"),
        ("[kafka]\nbrokers = []", "a list of brokers"),
        ("[kafka]\nbrokers = [\"http://kafka:9092\"]", "a list of brokers"),
        ("[kafka]\nbrokers = [\"kafka..example:9092\"]", "a list of brokers"),
        ("[kafka]\nuser = \"desk\"", "set kafka.sasl"),
        ("[kafka]\nsasl = \"plain\"\nuser = \"desk\"", "SASL needs a password"),
        ("[channel]\nack = \"log\"", "set topic, or take it out"),
        (&format!("{RPC}headers = [\"user\", \"user\"]"), "each once"),
        (&format!("{RPC}headers = [\"channel\"]"), "an rpc has no channel"),
        (&format!("{RPC}partition_table = {{ gold = 0 }}"), "`partition_table` means nothing"),
        (
            &format!("{RPC}partitioner = \"header:tier\"\npartition_table = {{ gold = 4 }}"),
            "not below log.partitions, which is 4",
        ),
        (&format!("{CONSUMER}to.channel = \"desk:{{key}}\""), "no namespace `desk`"),
        (&format!("{CONSUMER}to.upstream = \"desk\""), "add a [[upstream]]"),
        (&format!("{CALLER}batch.linger_ms = 5"), "set batch.records above 1"),
        (&format!("{CALLER}batch.records = 9\nprefetch.records = 8"), "prefetch.records"),
        ("[[upstream]]\nname = \"desk\"\nendpoints = [\"127.0.0.1:0\"]", "a list of IP"),
        ("[api]\nkey = \"a\\nb\"", "visible ASCII"),
        ("a = ", "this is not TOML"),
        ("[logs]\nlevel = \"info\"\nlevel = \"info\"", "this is not TOML"),
    ] {
        let said = problems(text);
        assert!(said.contains(part), "{text}: {part} is missing:\n{said}");
    }
}

#[test]
fn what_needs_names_is_warned_of_while_nobody_has_one() {
    let text = "[client]\nanonymous = true\n[channel]\nsubscribe = \"anonymous\"\n\
        [[namespace]]\nname = \"desk\"\n[[rpc]]\nmethod = \"a\"\ntopic = \"b\"\nkey = \"user\"\n";
    let warnings = parse("trine.toml", text).unwrap().warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].ends_with("tokens: namespace desk"), "{warnings:?}");
    assert!(warnings[1].ends_with("tokens: b"), "{warnings:?}");
    assert_eq!(Config::embedded().warnings().len(), 1, "names come with connect there");
}

#[test]
fn what_does_not_do_what_it_seems_to_is_warned_of() {
    for (text, warning) in [
        ("[client]\nanonymous = true\n", "no channel lets clients"),
        ("[kafka]\nbrokers = [\"kafka:9092\"]\n", "[kafka] means nothing"),
        ("[listen]\napi = \"0.0.0.0:9\"\n[api]\nkey = \"k\"\n", "in the clear"),
    ] {
        let warnings = parse("trine.toml", text).unwrap().warnings();
        assert!(warnings.iter().any(|said| said.contains(warning)), "{text}: {warnings:?}");
    }
    let open = "[client]\nanonymous = true\n[channel]\nsubscribe = \"anonymous\"\n";
    assert_eq!(parse("trine.toml", open).unwrap().warnings(), [""; 0]);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}|[\\[\\]a-z_=\" \n0-9.é]{0,120}") {
        if let Err(problems) = parse("any", &text) {
            prop_assert!(!problems.to_string().is_empty());
        }
    }

    #[test]
    fn no_damage_to_a_file_makes_it_panic(at in 0usize..4000, with in any::<char>()) {
        let mut text: Vec<char> = default_file().replace("# ", "").chars().collect();
        let at = at % text.len();
        text[at] = with;
        let text: String = text.into_iter().collect();
        if let Err(problems) = parse("any", &text) {
            prop_assert!(!problems.to_string().is_empty());
        }
    }
}
