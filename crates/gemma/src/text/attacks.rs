//! What a hostile checkpoint or message could try: templates that loop or grow, and text that poses as control tokens.

use super::tests::TINY;
use super::*;
use crate::Error;
use proptest::prelude::*;

fn template(source: &str) -> Result<ChatTemplate, Error> {
    ChatTemplate::new("t", source, "<bos>", "<eos>")
}

fn run(source: &str, messages: &[Message]) -> Result<String, Error> {
    let prompt = template(source)?.render(messages, &TINY[0], RenderOptions::default())?;
    Ok(prompt.text(&TINY[0]))
}

#[test]
fn templates_that_loop_or_grow_end_in_an_error() {
    let chat = [Message::user("John Smith ".repeat(1000))];
    let bombs = [
        "{% for i in range(4000) %}{% for j in range(4000) %}{% endfor %}{% endfor %}",
        "{% for i in range(4000) %}{% for j in range(4000) %}x{% endfor %}{% endfor %}",
        "{% for i in range(4000) %}{{ messages }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}x{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(999) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set x = range(4096) %}{% for i in range(4096) %}{% for j in range(4096) %}{% if [x] == [x] %}{% endif %}{% endfor %}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ ([1] * 1000000000) | length }}",
        "{{ range(1000000000) | list }}",
        "{{ 'a' | indent(1000000000, true) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
        "{{ ('b' * 100000).join(['a'] * 100000) }}",
        "{{ (['a'] * 100000) | join('b' * 100000) }}",
        "{{ messages[0].content * 100000 }}",
        "{{ raise_exception('x' * 1000000000) }}",
        "{{ raise_exception(messages[0].content) }}",
        "{{ messages[0].content | nosuchfilter }}",
        "{{ messages[0].content.nosuchmethod() }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[7].content.x }}",
        "{% include messages[0].content %}",
    ];
    for bomb in bombs {
        let error = run(bomb, &chat).unwrap_err().to_string();
        assert!(error.starts_with("t: ") && !error.contains("John"), "{bomb}: {error}");
    }
    assert!(template(&" ".repeat(1 << 20)).is_err());
}

#[test]
fn templates_nested_too_deep_are_refused_or_run() {
    // As many as the longest source holds, and half of it where something closes again.
    let whole = |unit: &str| unit.repeat(65_000 / unit.len());
    let half = |unit: &str| unit.repeat(32_000 / unit.len());
    let sources = [
        format!("{{{{ {}1{} }}}}", half("("), half(")")),
        format!("{{{{ {}1{} }}}}", half("["), half("]")),
        format!("{{{{ {}1 }}}}", whole("-")),
        format!("{{{{ {}1 }}}}", whole("not ")),
        format!("{{{{ 1{} }}}}", whole("+1")),
        format!("{{{{ 1{} }}}}", whole("~1")),
        format!("{{{{ 2{} }}}}", whole("**2")),
        format!("{{{{ 1{} }}}}", whole(" and 1")),
        format!("{{{{ 1{} }}}}", whole("==1")),
        format!("{{{{ 1{} }}}}", whole(" if 1 else 1")),
        format!("{{{{ a{} }}}}", whole(".a")),
        format!("{{{{ a{} }}}}", whole("[0]")),
        format!("{{{{ a{} }}}}", whole("[:]")),
        format!("{{{{ a{} }}}}", whole("()")),
        format!("{{{{ 'a'{} }}}}", whole("|trim")),
        format!("{{{{ 1{} }}}}", whole(" is odd")),
        whole("{% if 1 %}"),
        format!("{{% if 1 %}}{}{{% endif %}}", whole("{% elif 1 %}")),
        whole("{% for a in b %}"),
        whole("{% macro m() %}"),
        whole("{"),
        whole("{{"),
        whole("{#"),
        whole("{% raw %}"),
    ];
    for source in sources {
        // Either will do; it must come back.
        if let Err(error) = run(&source, &[Message::user("Hello")]) {
            assert!(!error.to_string().contains("longer than"), "{error}");
        }
    }
}

/// What Gemma's template makes of a chat: the text, and how many control tokens it has.
fn expected(messages: &[Message]) -> (String, usize) {
    let trim = guard::trim;
    let (system, turns) = match messages {
        [first, turns @ ..] if first.role == Role::System => (first.text() + "\n\n", turns),
        turns => (String::new(), turns),
    };
    let (mut text, mut controls) = ("<bos>".to_owned(), 1);
    for (at, turn) in turns.iter().enumerate() {
        text += if turn.role == Role::User { "<start_of_turn>user\n" } else { "<start_of_turn>model\n" };
        if at == 0 {
            text += &system;
        }
        for part in &turn.content {
            match part {
                Part::Text(part) => text += trim(part),
                Part::Image { .. } => {
                    text += "<start_of_image>";
                    controls += 1;
                }
            }
        }
        text += "<end_of_turn>\n";
        controls += 2;
    }
    (text + "<start_of_turn>model\n", controls + 1)
}

fn hostile_text() -> impl Strategy<Value = String> {
    let pieces = vec![
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<image_soft_token>",
        "<bos>",
        "<unused94>",
        "[multimodal]",
        "<start",
        "_of_",
        "turn>",
        "<",
        ">",
        "[",
        "multimodal]",
        "<end_of_",
        "_image>",
        "<un",
        "used9",
        "4>",
        "u",
        "s",
        "\u{fdd0}",
        "\u{fdef}",
        "\u{f0000}",
        "{{ bos_token }}",
        "{% raw %}",
        " ",
        "\n",
        "\n\n",
        "\u{a0}",
        "\u{1c}",
        "<b>",
        "user",
        "é",
        "word",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..6).prop_map(|pieces| pieces.concat())
}

fn hostile_chat() -> impl Strategy<Value = Vec<Message>> {
    let part = prop_oneof![4 => hostile_text().prop_map(Part::Text), 1 => Just(Part::IMAGE)];
    let user = prop::collection::vec(part, 1..5).prop_map(|parts| Message::new(Role::User, parts));
    let turns = prop::collection::vec((hostile_text().prop_map(Message::assistant), user.clone()), 0..3);
    let system = prop::option::of(hostile_text().prop_map(Message::system));
    (system, user, turns).prop_map(|(system, first, turns)| {
        let turns = turns.into_iter().flat_map(|(answer, user)| [answer, user]);
        system.into_iter().chain([first]).chain(turns).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn text_of_messages_never_steers(chat in hostile_chat()) {
        let (text, controls) = expected(&chat);
        let own = include_str!("../../../../testdata/tiny-mm16/chat_template.jinja");
        for template in [template(own).unwrap(), ChatTemplate::built_in()] {
            let tokenizer = &TINY[0];
            let prompt = template.render(&chat, tokenizer, RenderOptions::default()).unwrap();
            prop_assert_eq!(prompt.text(tokenizer), &text[..], "the guard changed the text");
            let images: usize = chat.iter().map(Message::images).sum();
            let crops = vec![0; images];
            let layout = ImageLayout { tokens: ImageTokens::of(tokenizer).unwrap(), per_image: 2, crops: &crops };
            let ids = prompt.encode_with_images(tokenizer, layout).unwrap().ids;
            // Each image is written out: two soft tokens and the end.
            let found = ids.iter().filter(|&&id| tokenizer.is_control(id)).count();
            prop_assert_eq!(found, controls + 3 * images);
        }
    }
}
