//! Chat templates: a checkpoint's own Jinja, run within limits.

use super::growth;
use super::guard::{Guard, is_space, trim};
use super::{Message, Part, Prompt, Role, Tokenizer};
use crate::Error;
use medgemma_formats::{Folder, Gguf};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, State};
use std::collections::BTreeMap;
use std::fmt;

/// Longest template read, in bytes. Gemma's has 1.5 KB; those of models with tools reach 30 KB.
const MAX_SOURCE: usize = 64 << 10;

/// Stack for compiling and running a template. Both recurse as deep as the source nests (`1+1+1…` nests too) and as
/// the values it builds, which [`MAX_SOURCE`] and the fuel bound. It is address space: only what is used takes memory.
const STACK: usize = 256 << 20;

/// Work allowed to a template whatever it is given, in minijinja's units: about one an instruction or 64 bytes. So it
/// also bounds memory, to 64 bytes a unit. Gemma's template takes about 100.
const FUEL: u64 = 100_000;

/// More of it: for each byte of text, of which a template needs 3/64, and for each message and part, where it needs 30.
const FUEL_PER_BYTE: f64 = 0.25;
const FUEL_PER_PART: u64 = 300;

/// Most numbers of a `range`.
const MAX_RANGE: usize = 4096;

/// The template used for a checkpoint without one, of Gemma 3's shape.
const BUILT_IN: &str = include_str!("template.jinja");

/// A chat template, compiled.
///
/// It comes from the checkpoint (or is the built-in one), never from a request. It can't reach files or the network,
/// and a template that loops or that makes ever more text ends in an error.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    file: String,
    bos: String,
    eos: String,
    built_in: bool,
}

/// What a template is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderOptions {
    /// Whether the prompt ends with the beginning of the model's turn, for it to go on.
    pub add_generation_prompt: bool,
}

impl Default for RenderOptions {
    /// As for an answer: with the generation prompt.
    fn default() -> Self {
        Self { add_generation_prompt: true }
    }
}

impl ChatTemplate {
    /// Compiles a template; `file` is its name for errors, `bos` and `eos` the texts of `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// When it isn't Jinja, or is too long.
    pub fn new(file: &str, source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        let wrong = |problem: String| Error::Template { file: file.into(), problem };
        if source.len() > MAX_SOURCE {
            return Err(wrong(format!("a chat template of {} bytes is longer than {MAX_SOURCE}", source.len())));
        }
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let syntax = syntax.map_err(|error| wrong(error.to_string()))?;
        let mut environment = Environment::new();
        environment.set_syntax(syntax.clone());
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(method);
        environment.add_filter("trim", trim_filter);
        environment.add_function("raise_exception", raise_exception);
        // Prompts don't depend on the clock.
        environment.add_function("strftime_now", |_format: String| String::new());
        environment.add_function("range", range);
        // They put lists together; chat templates have no use for them.
        ["chain", "zip"].iter().for_each(|name| environment.remove_filter(name));
        environment.remove_global("dict");
        let compile = || match growth::problem(source, syntax)? {
            None => environment.add_template_owned("chat", source.to_owned()).map(|()| None),
            problem => Ok(problem),
        };
        let problem =
            on_deep_stack(file, compile)?.map_err(|error| wrong(format!("the chat template isn't Jinja: {error}")))?;
        if let Some(problem) = problem {
            return Err(wrong(problem));
        }
        Ok(Self { environment, file: file.into(), bos: bos.into(), eos: eos.into(), built_in: false })
    }

    /// The built-in template of Gemma 3's shape, for checkpoints without one.
    pub fn built_in() -> Self {
        let template = Self::new("the built-in template", BUILT_IN, "<bos>", "<eos>");
        Self { built_in: true, ..template.expect("the built-in template is tested") }
    }

    /// The template of a Hugging Face folder (`chat_template.jinja`, `chat_template.json` or the `chat_template` of
    /// `tokenizer_config.json`), or `None` when it has none: then the checkpoint may be a pre-trained one.
    ///
    /// # Errors
    /// When a file can't be read or says something else.
    pub fn from_folder(folder: &Folder) -> Result<Option<Self>, Error> {
        let read = |name: &str| -> Result<Option<serde_json::Value>, Error> {
            if !folder.contains(name) {
                return Ok(None);
            }
            let file = display(folder, name);
            let problem = |error: serde_json::Error| Error::Template { file, problem: format!("not JSON: {error}") };
            Ok(Some(serde_json::from_slice(&folder.read(name)?).map_err(problem)?))
        };
        let config = read("tokenizer_config.json")?.unwrap_or_default();
        let token = |key: &str, default: &str| {
            let token = &config[key];
            token.as_str().or(token["content"].as_str()).unwrap_or(default).to_owned()
        };
        let (bos, eos) = (token("bos_token", "<bos>"), token("eos_token", "<eos>"));
        if folder.contains("chat_template.jinja") {
            let file = display(folder, "chat_template.jinja");
            let bytes = folder.read("chat_template.jinja")?;
            let source = std::str::from_utf8(&bytes)
                .map_err(|error| Error::Template { file: file.clone(), problem: error.to_string() })?;
            return Self::new(&file, source, &bos, &eos).map(Some);
        }
        let own = read("chat_template.json")?.map(|json| ("chat_template.json", json["chat_template"].clone()));
        let (name, value) = own.unwrap_or_else(|| ("tokenizer_config.json", config["chat_template"].clone()));
        let file = display(folder, name);
        let source = match &value {
            serde_json::Value::Null => return Ok(None),
            serde_json::Value::String(source) => Some(&source[..]),
            // Several templates by name; the one for chats is called default.
            serde_json::Value::Array(named) => {
                named.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str())
            }
            _ => None,
        };
        let problem = || "chat_template is neither a string nor a list with a template named default".into();
        let source = source.ok_or_else(|| Error::Template { file: file.clone(), problem: problem() })?;
        Self::new(&file, source, &bos, &eos).map(Some)
    }

    /// The template of a GGUF's metadata (`tokenizer.chat_template`), or `None` when it has none.
    ///
    /// # Errors
    /// When it isn't Jinja, or the keys are of other types.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Self>, Error> {
        let Some(source) = gguf.str("tokenizer.chat_template")? else { return Ok(None) };
        let token = |key: &str, default: &str| -> Result<String, Error> {
            let id = gguf.u64(key)?.and_then(|id| u32::try_from(id).ok());
            Ok(id.and_then(|id| tokenizer.token(id)).unwrap_or(default).to_owned())
        };
        let bos = token("tokenizer.ggml.bos_token_id", "<bos>")?;
        let eos = token("tokenizer.ggml.eos_token_id", "<eos>")?;
        Self::new(&gguf.path().display().to_string(), source, &bos, &eos).map(Some)
    }

    /// The template's text.
    pub fn source(&self) -> String {
        self.environment.get_template("chat").map(|template| template.source().to_owned()).unwrap_or_default()
    }

    /// Whether it is the built-in template and not the checkpoint's.
    pub fn is_built_in(&self) -> bool {
        self.built_in
    }

    /// Writes the messages as the model was trained to read them.
    ///
    /// Text of messages stays text: whatever control-token text it holds, only the template's own becomes control
    /// tokens. A system message of several text parts is given to the template as one text.
    ///
    /// # Errors
    /// When the template refuses the conversation (Gemma's: roles that don't alternate), when it fails, or when it
    /// takes more work or writes more than a conversation of this size should.
    pub fn render(&self, messages: &[Message], tokenizer: &Tokenizer, options: RenderOptions) -> Result<Prompt, Error> {
        let texts = || {
            messages
                .iter()
                .flat_map(|m| &m.content)
                .filter_map(|part| if let Part::Text(text) = part { Some(&text[..]) } else { None })
        };
        let guard = Guard::new(tokenizer, texts()).ok_or_else(|| Error::Messages {
            field: "messages".into(),
            problem: "the text uses every private-use character of Unicode".into(),
        })?;
        let bytes: usize = texts().map(str::len).sum();
        let parts: usize = messages.iter().map(|m| 1 + m.content.len()).sum();
        let fuel = FUEL + (FUEL_PER_BYTE * bytes as f64) as u64 + FUEL_PER_PART * parts as u64;
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let context = BTreeMap::from([
            ("messages", messages.iter().map(|message| message_value(message, &guard)).collect::<Vec<_>>().into()),
            ("add_generation_prompt", options.add_generation_prompt.into()),
            ("bos_token", Value::from(&self.bos[..])),
            ("eos_token", Value::from(&self.eos[..])),
            ("tools", ().into()),
            ("documents", ().into()),
        ]);
        let render = move || environment.get_template("chat")?.render(Value::from(context));
        let rendered = on_deep_stack(&self.file, render)?.map_err(|error| self.failure(&error))?;
        // What a template adds to a text is short.
        let limit = MAX_SOURCE + 4 * bytes + 1024 * parts;
        if rendered.len() > limit {
            let problem = format!("the chat template wrote {} bytes for a conversation of {bytes}", rendered.len());
            return Err(Error::Template { file: self.file.clone(), problem });
        }
        Ok(Prompt::rendered(&rendered, &guard, tokenizer))
    }

    /// Tells of a failure without repeating anything of the messages, which minijinja's own words may.
    fn failure(&self, error: &minijinja::Error) -> Error {
        let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
        let raised = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Raised>());
        let problem = match (raised, error.kind()) {
            // The template's own words; those it puts together may hold what a message says.
            (Some(Raised(message)), _) if self.source().contains(&message[..]) => message.clone(),
            (Some(_), _) => format!("the chat template refuses this conversation{line}"),
            (None, ErrorKind::OutOfFuel) => {
                format!("the chat template takes more work than a conversation of this size should{line}")
            }
            (None, kind) => format!("the chat template fails: {kind}{line}"),
        };
        Error::Template { file: self.file.clone(), problem }
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("file", &self.file)
            .field("built_in", &self.built_in)
            .finish_non_exhaustive()
    }
}

/// Runs what recurses as deep as a template makes it.
fn on_deep_stack<T: Send>(file: &str, run: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let wrong = |problem: String| Error::Template { file: file.into(), problem };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".into()).stack_size(STACK).spawn_scoped(scope, run);
        let thread = thread.map_err(|error| wrong(format!("no thread to run the chat template in: {error}")))?;
        thread.join().map_err(|_| wrong("the chat template made its interpreter fail".into()))
    })
}

fn display(folder: &Folder, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

/// A message as `transformers` hands it to templates: a content of one text is a string, others are a list of parts.
fn message_value(message: &Message, guard: &Guard) -> Value {
    let content = match &message.content[..] {
        [Part::Text(text)] => Value::from(guard.protect(text)),
        [] => Value::from(""),
        // Gemma's template reads only the first part of a system message.
        _ if message.role == Role::System => Value::from(guard.protect(&message.text())),
        parts => parts.iter().map(|part| part_value(part, guard)).collect::<Vec<_>>().into(),
    };
    Value::from(BTreeMap::from([("role", Value::from(message.role.name())), ("content", content)]))
}

fn part_value(part: &Part, guard: &Guard) -> Value {
    Value::from(match part {
        Part::Text(text) => BTreeMap::from([("type", Value::from("text")), ("text", Value::from(guard.protect(text)))]),
        Part::Image { .. } => BTreeMap::from([("type", Value::from("image"))]),
    })
}

/// What `raise_exception` was called with.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

/// Jinja's `range`, within what a conversation may need: loops in loops, and lists of them, stay small.
fn range(lower: isize, upper: Option<isize>, step: Option<isize>) -> Result<Value, minijinja::Error> {
    let range = minijinja::functions::range(lower, upper, step)?;
    match range.len() {
        Some(len) if len <= MAX_RANGE => Ok(range),
        _ => Err(minijinja::Error::new(ErrorKind::InvalidOperation, "range has too many elements")),
    }
}

/// Jinja's `trim`, with Python's idea of white space.
fn trim_filter(text: &str, chars: Option<&str>) -> String {
    match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_owned(),
        None => trim(text).to_owned(),
    }
}

/// Python's methods: `strip` and its kin with Python's idea of white space, the others minijinja's.
fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, minijinja::Error> {
    if let (Some(text), []) = (value.as_str(), arguments) {
        match name {
            "strip" => return Ok(trim(text).into()),
            "lstrip" => return Ok(text.trim_start_matches(is_space).into()),
            "rstrip" => return Ok(text.trim_end_matches(is_space).into()),
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}
