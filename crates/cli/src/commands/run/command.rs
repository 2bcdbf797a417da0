//! Lines of a chat that begin with a slash.

use std::path::PathBuf;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// Attach a picture to the next question.
    Image(PathBuf),
    /// Set the role instruction, or show it.
    System(Option<String>),
    /// Let the model think first.
    Think(bool),
    /// Change how answers are generated.
    Set(Setting),
    /// Forget the conversation.
    Clear,
    /// Write the conversation to a file.
    Save(PathBuf),
    /// Explain the commands.
    Help,
    /// End the chat.
    Bye,
}

/// A number that can be set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Setting {
    Temperature(f32),
    TopK(usize),
    TopP(f32),
    MinP(f32),
    Seed(u64),
    MaxTokens(usize),
    ThinkBudget(usize),
}

/// Every command, with what stands behind it and what it does.
pub(crate) const HELP: [(&str, &str, &str); 8] = [
    ("/image", "FILE", "attach a picture to the next question; or drop it here"),
    ("/system", "TEXT", "say who the model is to be (alone: show it)"),
    ("/think", "on|off", "let the model think before it answers"),
    ("/set", "NAME VALUE", "temperature, top_k, top_p, min_p, seed, max_tokens or think_budget"),
    ("/clear", "", "forget the conversation"),
    ("/save", "FILE", "write the conversation: .json for --messages, else text"),
    ("/help", "", "this list"),
    ("/bye", "", "end (also Ctrl-D)"),
];

impl Command {
    /// Reads a line. `None` when it is no command: a slash alone doesn't make one (`/path/x.png what is this?`).
    ///
    /// # Errors
    /// What the command needs, when it is one but isn't complete.
    pub(crate) fn parse(line: &str) -> Option<Result<Self, String>> {
        let line = line.trim();
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let looks_like_one = name.len() > 1
            && name.strip_prefix('/').is_some_and(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '?'));
        let need = |what: &str| Err(format!("{name} needs {what}"));
        let command = match name {
            "/image" if rest.is_empty() => need("a file"),
            "/image" => Ok(Self::Image(unquoted(rest).into())),
            "/system" => Ok(Self::System((!rest.is_empty()).then(|| unquoted(rest).to_owned()))),
            "/think" => match rest {
                "on" | "" => Ok(Self::Think(true)),
                "off" => Ok(Self::Think(false)),
                _ => need("on or off"),
            },
            "/set" => setting(rest).map(Self::Set),
            "/clear" => Ok(Self::Clear),
            "/save" if rest.is_empty() => need("a file"),
            "/save" => Ok(Self::Save(unquoted(rest).into())),
            "/help" | "/?" => Ok(Self::Help),
            "/bye" | "/exit" | "/quit" => Ok(Self::Bye),
            _ if looks_like_one => Err(format!("there is no {name}: /help lists what there is")),
            _ => return None,
        };
        Some(command)
    }
}

fn setting(text: &str) -> Result<Setting, String> {
    let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let value = value.trim();
    fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
        value.parse().map_err(|_| format!("/set {name} needs a number"))
    }
    match name {
        "temperature" => number(name, value).map(Setting::Temperature),
        "top_k" => number(name, value).map(Setting::TopK),
        "top_p" => number(name, value).map(Setting::TopP),
        "min_p" => number(name, value).map(Setting::MinP),
        "seed" => number(name, value).map(Setting::Seed),
        "max_tokens" => number(name, value).map(Setting::MaxTokens),
        "think_budget" => number(name, value).map(Setting::ThinkBudget),
        _ => Err("/set needs temperature, top_k, top_p, min_p, seed, max_tokens or think_budget, and a number".into()),
    }
}

/// A text without the quotes around it.
fn unquoted(text: &str) -> &str {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Command {
        Command::parse(line).unwrap().unwrap()
    }

    #[test]
    fn commands_are_read() {
        assert_eq!(parsed("/image 'a b.png'"), Command::Image("a b.png".into()));
        assert_eq!(parsed("/system You are a radiologist."), Command::System(Some("You are a radiologist.".into())));
        assert_eq!(parsed("/system"), Command::System(None));
        assert_eq!(parsed("/system \"\""), Command::System(Some(String::new())));
        assert_eq!(parsed("/think off"), Command::Think(false));
        assert_eq!(parsed(" /set temperature 0.5 "), Command::Set(Setting::Temperature(0.5)));
        assert_eq!(parsed("/set think_budget 300"), Command::Set(Setting::ThinkBudget(300)));
        assert_eq!(parsed("/set seed 7"), Command::Set(Setting::Seed(7)));
        assert_eq!(parsed("/bye"), Command::Bye);
    }

    #[test]
    fn a_path_or_a_question_is_no_command() {
        for line in ["/tmp/x.png what is this?", "what is /image?", "", "/", "/Users/x.png", "5/2"] {
            assert_eq!(Command::parse(line), None, "{line}");
        }
    }

    #[test]
    fn mistakes_say_what_is_needed() {
        for (line, word) in [
            ("/image", "a file"),
            ("/set", "temperature"),
            ("/set seed x", "number"),
            ("/set top_k -1", "number"),
            ("/think maybe", "on or off"),
            ("/nonsense", "/help"),
        ] {
            let error = Command::parse(line).unwrap().unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn help_lists_every_command() {
        for (name, _, _) in HELP {
            let result = Command::parse(name).expect(name);
            assert!(result.is_ok() || !result.unwrap_err().contains("there is no"), "{name}");
        }
    }
}
