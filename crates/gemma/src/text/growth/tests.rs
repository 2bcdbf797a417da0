//! What the check lets pass, and what not.

use super::*;

fn check(source: &str) -> Option<String> {
    problem(source, SyntaxConfig::default()).unwrap()
}

#[test]
fn chat_templates_pass() {
    for source in [
        include_str!("../template.jinja"),
        include_str!("../../../../../testdata/tiny-mm16/chat_template.jinja"),
        "{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{{ m.content + eos_token }}{% endfor %}",
        "{% for m in messages %}{% set x = m.role + m.content + 'x' %}{% set y = x ~ x %}{% endfor %}",
        "{% for m in [first] + messages %}{% if m.a + m.b %}{% endif %}{% endfor %}",
        "{% set messages = messages + [{'role': 'user', 'content': [x, y]}] %}",
        "{% set ns = namespace(first=true, text='', turns=messages) %}{% for m in ns.turns %}{% set ns.first = false %}\
         {% set ns.text = ns.text + m.content + '\n' %}{% set rest = ns.turns[1:] %}{% endfor %}",
        "{% for m in messages %}{% set content = m.content %}{% if '</think>' in content %}\
         {% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ content }}{% endfor %}",
        "{% set ns = namespace(last=messages | length - 1) %}{% for m in messages[::-1] %}\
         {% set ns.last = ns.last - loop.index0 * 2 %}{{ loop.previtem.role }}{% endfor %}",
        "{% macro show(parts, depth=0) %}{% for p in parts %}{{ show(p.inner, depth + 1) }}{% endfor %}{% endmacro %}{{ show(messages) }}",
        "{% for m in messages recursive %}{{ loop(m.children) }}{% endfor %}",
        "{{ '-' * 20 }}{{ (i + 1) * 2 }}",
        "{% for k, v in message.items() %}{% set d = {k: v} %}{% endfor %}",
    ] {
        assert_eq!(check(source), None, "{source}");
    }
}

#[test]
fn values_may_not_grow_or_nest_without_end() {
    for source in [
        "{% set ns = namespace(x=[1]) %}{% for i in messages %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in messages %}{% set ns.x = ns.x + [1] %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in messages %}{% set ns.x = [ns.x] %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in messages %}{% set ns.x = {'a': ns.x} %}{% endfor %}",
        "{% set ns = namespace(x=[1], y=0) %}{% for i in messages %}{% set ns.y = ns.x %}{% set ns.x = (1, ns.y) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in messages %}{% set y = ns.x | batch(1) %}{% set ns.x = y | list %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.a = ns %}",
        "{% set ns = namespace() %}{% set m = ns %}{% set m.a = [ns] %}",
        "{% set ns = namespace() %}{% for m in [ns] %}{% set m.a = ns %}{% endfor %}",
        "{% set a = namespace() %}{% set b = namespace(x=a) %}{% set a.y = b %}",
        "{% set x = [1] %}{% for i in messages %}{% set x = x + x %}{% endfor %}",
        "{% macro m(x) %}{{ m(x + x) }}{% endmacro %}{{ m([1]) }}",
        "{% macro m(x) %}{{ m([x, x]) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(x=[1]) %}{{ m(x + x) }}{% endmacro %}{{ m() }}",
        "{% macro a(x) %}{{ b([x]) }}{% endmacro %}{% macro b(x) %}{{ a(x) }}{% endmacro %}{{ a(1) }}",
        "{% set ns = namespace() %}{% macro m() %}{% set ns.x = [ns.x] %}{% endmacro %}",
        "{% for i in messages recursive %}{{ loop([i, i]) }}{% endfor %}",
        "{% macro m(x) %}{{ caller([x]) }}{% endmacro %}{% call(x) m(1) %}{% call(y) m(x) %}{{ y }}{% endcall %}{% endcall %}",
        "{% set ns = namespace(x=messages) %}{% for i in messages %}{% set ns.x = ns.x[1:] %}{% endfor %}",
        "{% set f = range %}",
        "{% set f = {'strip': namespace} %}",
        "{% set range = 1 %}",
        "{% set l = loop %}",
        "{{ [1] * 100000 }}",
        "{{ messages * n }}",
        "{{ ('a' if b else [1]) * n }}",
        "{{ messages | map('default', messages) }}",
        &format!("{{% set x = [1] %}}{}", "{% set x = [x, x] %}".repeat(6)),
        &format!("{{{{ messages{} }}}}", "+messages".repeat(LIMIT)),
    ] {
        assert!(check(source).is_some(), "{source}");
    }
}

#[test]
fn the_work_is_bounded() {
    let many = |n: usize, f: fn(usize) -> String| (0..n).map(f).collect::<String>();
    // Each round carries a size one name further.
    let chain = many(1500, |i| format!("{{% set x{i} = x{} %}}", i + 1));
    let source = format!("{{% for i in messages %}}{chain}{{% set x1500 = i %}}{{% endfor %}}");
    assert!(check(&source).is_some_and(|problem| problem.contains("intricate")));
    let macros = many(500, |i| format!("{{% macro m{i}(a) %}}{{{{ m{}(a) }}}}{{% endmacro %}}", i + 1));
    assert_eq!(check(&macros), None);
}
