//! Logs: one JSON object a line with etcd's keys, on a terminal too, or lines for people if they are asked for.

use crate::config::{LogFormat, LogOutput, LogSettings};
use serde_json::{Map, Value};
use std::{
    fmt, fs, io,
    io::{IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer, time::FormatTime},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Starts logging for the whole process.
///
/// # Errors
/// A log file that does not open, or logging that was started before.
pub fn start(settings: &LogSettings) -> Result<(), String> {
    let sink = Sink::open(&settings.outputs)?;
    let to_terminal = settings.outputs == [LogOutput::Stderr] && io::stderr().is_terminal();
    let console = settings.format == LogFormat::Console;
    let level = tracing_subscriber::filter::LevelFilter::from_level(settings.level);
    // Libraries speak up only when something is wrong.
    let filter = tracing_subscriber::filter::Targets::new().with_default(level.min(Level::WARN.into())).with_target("quorate", level);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(sink).with_ansi(to_terminal);
    if console { registry.with(layer.event_format(Console)).try_init() } else { registry.with(layer.event_format(Json)).try_init() }
        .map_err(|error| error.to_string())
}

/// Where lines go; a line is written whole, by one call.
#[derive(Clone, Debug)]
struct Sink(Arc<[Output]>);

#[derive(Debug)]
enum Output {
    Stderr,
    Stdout,
    File(Mutex<fs::File>),
}

impl Sink {
    fn open(outputs: &[LogOutput]) -> Result<Self, String> {
        let open = |output: &LogOutput| match output {
            LogOutput::Stderr => Ok(Output::Stderr),
            LogOutput::Stdout => Ok(Output::Stdout),
            LogOutput::File(path) => fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map(|file| Output::File(Mutex::new(file)))
                .map_err(|error| format!("cannot open log output {}: {error} (--log-outputs)", path.display())),
        };
        Ok(Self(outputs.iter().map(open).collect::<Result<_, _>>()?))
    }
}

impl Write for &Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for output in &*self.0 {
            // A log that cannot be written must not stop the store.
            let _ = match output {
                Output::Stderr => io::stderr().lock().write_all(line),
                Output::Stdout => io::stdout().lock().write_all(line),
                Output::File(file) => file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line),
            };
        }
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Sink;
    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// Microseconds, with the zone as etcd writes it.
fn timestamp() -> String {
    let mut text = String::new();
    let clock = tracing_subscriber::fmt::time::ChronoLocal::new("%Y-%m-%dT%H:%M:%S%.6f%z".into());
    if clock.format_time(&mut Writer::new(&mut text)).is_err() {
        text.clear();
    }
    match text.strip_suffix("+0000") {
        Some(utc) => format!("{utc}Z"),
        None => text,
    }
}

fn caller(event: &Event<'_>, fields: &Fields) -> String {
    let metadata = event.metadata();
    match (&fields.logged_by, metadata.module_path()) {
        (Some(module), _) => module.clone(),
        (None, Some(module)) => place(module, metadata.file().zip(metadata.line())),
        (None, None) => metadata.target().to_owned(),
    }
}

/// Where an event comes from: a file of this program and its line; of a library, which crate's and which module of it, because where
/// its source lay when it was built tells nobody anything.
fn place(module: &str, source: Option<(&str, u32)>) -> String {
    match source.filter(|_| module.starts_with("quorate")) {
        Some((file, line)) => format!("{}:{line}", file.rsplit_once("src/").map_or(file, |(_, short)| short)),
        None => module.to_owned(),
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    /// The module that logged this through the `log` crate, of which the event itself knows nothing.
    logged_by: Option<String>,
    others: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.others.insert(key(field), text.into());
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else if field.name().starts_with(LOG_CRATE) {
            if field.name() == "log.target" {
                self.logged_by = Some(value.to_owned());
            }
        } else {
            self.others.insert(key(field), value.into());
        }
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.insert(key(field), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name().starts_with(LOG_CRATE) {
            return;
        }
        self.others.insert(key(field), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.insert(key(field), value.into());
    }
}

/// What the `log` crate's bridge calls its fields; they say where an event comes from, and [`caller`] says that.
const LOG_CRATE: &str = "log.";

/// Field names as etcd's logs have them.
fn key(field: &Field) -> String {
    field.name().replace('_', "-")
}

fn fields_of(event: &Event<'_>) -> Fields {
    let mut fields = Fields::default();
    event.record(&mut fields);
    fields
}

struct Json;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for Json {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let fields = fields_of(event);
        let string = |text: &str| Value::from(text).to_string();
        write!(
            out,
            "{{\"level\":\"{}\",\"ts\":\"{}\",\"caller\":{},\"msg\":{}",
            level_name(*event.metadata().level()),
            timestamp(),
            string(&caller(event, &fields)),
            string(&fields.message)
        )?;
        for (name, value) in &fields.others {
            write!(out, ",{}:{value}", string(name))?;
        }
        writeln!(out, "}}")
    }
}

struct Console;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for Console {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let fields = fields_of(event);
        let level = level_name(*event.metadata().level());
        let (on, off) = match (out.has_ansi_escapes(), level) {
            (true, "error") => ("\x1b[31m", "\x1b[0m"),
            (true, "warn") => ("\x1b[33m", "\x1b[0m"),
            (true, _) => ("\x1b[2m", "\x1b[0m"),
            (false, _) => ("", ""),
        };
        write!(out, "{}  {on}{level}{off}  {}", timestamp(), fields.message)?;
        for (name, value) in &fields.others {
            write!(out, "  {on}{name}={off}{}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))?;
        }
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(settings: &LogSettings, log: impl FnOnce()) -> String {
        let sink = Sink::open(&settings.outputs).unwrap();
        let layer = tracing_subscriber::fmt::layer().with_writer(sink).event_format(Json);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let LogOutput::File(path) = &settings.outputs[0] else { panic!("the test logs to a file") };
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_line_is_one_json_object_with_etcds_keys_in_front() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = LogSettings { level: Level::INFO, format: LogFormat::Json, outputs: vec![LogOutput::File(file.path().into())] };
        let line = line_of(&settings, || tracing::info!(remote_addr = "127.0.0.1:1", size = 7, "say \"hi\"\n"));
        assert_eq!(line.lines().count(), 1);
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&parsed["level"], &parsed["msg"]), (&Value::from("info"), &Value::from("say \"hi\"\n")));
        assert_eq!((&parsed["remote-addr"], &parsed["size"]), (&Value::from("127.0.0.1:1"), &Value::from(7)));
        assert!(parsed["caller"].as_str().unwrap().starts_with("logging.rs:"), "{line}");
        let ts = parsed["ts"].as_str().unwrap();
        assert_eq!(&ts[10..11], "T");
        assert_eq!(ts.find('.'), Some(19), "{ts}");
        assert!(line.starts_with("{\"level\":"), "{line}");
    }

    #[test]
    fn a_library_is_named_by_its_module_and_not_by_where_it_was_built() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = LogSettings { level: Level::INFO, format: LogFormat::Json, outputs: vec![LogOutput::File(file.path().into())] };
        let lines = line_of(&settings, || {
            // As tracing's macros and as the bridge from the `log` crate have it.
            tracing::warn!("from here");
            tracing::warn!(
                { log.target = "fjall::journal", log.module_path = "fjall::journal", log.file = "/builds/registry/fjall/mod.rs", log.line = 7_u64 },
                "a journal is old"
            );
        });
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines[0]["caller"].as_str().unwrap().starts_with("logging.rs:"), "{}", lines[0]);
        assert_eq!(lines[1]["caller"], "fjall::journal");
        let keys: Vec<&String> = lines[1].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["level", "ts", "caller", "msg"]);
        assert_eq!(place("h2::proto", Some(("/builds/registry/h2/src/proto/mod.rs", 7))), "h2::proto");
        assert_eq!(place("quorate_node::run", Some(("/builds/node/src/run.rs", 7))), "run.rs:7");
    }

    #[test]
    fn a_log_file_that_does_not_open_is_named() {
        let error = Sink::open(&[LogOutput::File("/nonexistent/x.log".into())]).unwrap_err();
        assert!(error.contains("/nonexistent/x.log") && error.contains("--log-outputs"), "{error}");
    }
}
