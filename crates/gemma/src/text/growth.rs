//! Refuses templates that could grow a list without end.
//!
//! minijinja's fuel pays for strings and for work, but adding or repeating lists is lazy and free, until some operation
//! goes through 2³³ items at once. Chat templates have no use for that, so it is refused before they run: `+` between
//! what may be lists where the result is kept and the place can be reached again and again, and `*` of what may be one.

use minijinja::Error;
use minijinja::machinery::ast::{BinOpKind, Call, CallArg, Expr, Stmt};
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;

/// Additions of possible lists whose results are kept, in a whole template. (`messages + [closing]` is one.)
const MAX_KEPT: usize = 4;
/// Additions of possible lists within one expression whose result is not kept.
const MAX_SHOWN: usize = 8;

/// Filters that give a string, a number or a truth, whatever they are given.
const SCALAR_FILTERS: [&str; 16] = [
    "trim",
    "upper",
    "lower",
    "string",
    "length",
    "count",
    "join",
    "replace",
    "title",
    "capitalize",
    "int",
    "float",
    "abs",
    "round",
    "escape",
    "bool",
];

/// What is wrong with a template, with its line; `Ok(None)` when nothing is.
///
/// Recurses as deep as the source nests.
///
/// # Errors
/// When the source isn't Jinja.
pub(super) fn problem(source: &str, syntax: SyntaxConfig) -> Result<Option<String>, Error> {
    let template = parse(source, "chat", syntax)?;
    let mut check = Check::default();
    check.statement(&template);
    Ok(check.problem)
}

/// What becomes of an expression's value.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    /// It is written out or looked at, and gone; so many additions of possible lists are around it.
    Shown(usize),
    /// It may be bound to a name or put into another value.
    Kept,
}

#[derive(Default)]
struct Check {
    /// Whether the place may be reached more than once.
    repeated: bool,
    kept: usize,
    problem: Option<String>,
}

impl Check {
    fn refuse(&mut self, line: impl Into<usize>, problem: &str) {
        let line = line.into();
        self.problem.get_or_insert_with(|| format!("the chat template {problem} (line {line})"));
    }

    fn statements(&mut self, statements: &[Stmt]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn repeated(&mut self, statements: &[Stmt]) {
        let before = std::mem::replace(&mut self.repeated, true);
        self.statements(statements);
        self.repeated = before;
    }

    fn statement(&mut self, statement: &Stmt) {
        match statement {
            Stmt::Template(t) => self.statements(&t.children),
            Stmt::EmitExpr(e) => self.expression(&e.expr, Use::Shown(0)),
            Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => {}
            Stmt::ForLoop(f) => {
                self.expression(&f.iter, Use::Kept);
                let before = std::mem::replace(&mut self.repeated, true);
                f.filter_expr.iter().for_each(|e| self.expression(e, Use::Shown(0)));
                self.repeated = before;
                self.repeated(&f.body);
                self.statements(&f.else_body);
            }
            Stmt::IfCond(i) => {
                self.expression(&i.expr, Use::Shown(0));
                self.statements(&i.true_body);
                self.statements(&i.false_body);
            }
            Stmt::WithBlock(w) => {
                w.assignments.iter().for_each(|(_, e)| self.expression(e, Use::Kept));
                self.statements(&w.body);
            }
            Stmt::Set(s) => self.expression(&s.expr, Use::Kept),
            Stmt::SetBlock(s) => {
                s.filter.iter().for_each(|e| self.expression(e, Use::Kept));
                self.statements(&s.body);
            }
            Stmt::AutoEscape(a) => {
                self.expression(&a.enabled, Use::Shown(0));
                self.statements(&a.body);
            }
            Stmt::FilterBlock(f) => {
                self.expression(&f.filter, Use::Kept);
                self.statements(&f.body);
            }
            Stmt::Macro(m) => {
                let before = std::mem::replace(&mut self.repeated, true);
                m.defaults.iter().for_each(|e| self.expression(e, Use::Kept));
                self.repeated = before;
                self.repeated(&m.body);
            }
            Stmt::CallBlock(c) => {
                self.call(&c.call);
                self.repeated(&c.macro_decl.body);
            }
            Stmt::Do(d) => self.call(&d.call),
            // Blocks, imports and includes, if another crate has them compiled in: chat templates have no others.
            #[allow(unreachable_patterns)]
            _ => self.refuse(0usize, "includes others, which isn't supported"),
        }
    }

    fn expression(&mut self, expression: &Expr, used: Use) {
        match expression {
            Expr::Var(_) | Expr::Const(_) => {}
            Expr::Slice(s) => {
                self.expression(&s.expr, Use::Kept);
                [&s.start, &s.stop, &s.step].into_iter().flatten().for_each(|e| self.expression(e, Use::Kept));
            }
            Expr::UnaryOp(u) => self.expression(&u.expr, Use::Shown(0)),
            Expr::BinOp(b) => {
                let scalars = (is_scalar(&b.left), is_scalar(&b.right));
                let line = usize::from(b.span().start_line);
                let operands = match b.op {
                    // With a scalar the addition fails on lists, so none is kept.
                    BinOpKind::Add if scalars.0 || scalars.1 => Use::Shown(0),
                    BinOpKind::Add => self.add_lists(line, used),
                    BinOpKind::Mul => {
                        if !(scalars == (true, true) || is_string(&b.left) || is_string(&b.right)) {
                            self.refuse(line, "multiplies what may be a list, which isn't supported");
                        }
                        Use::Kept
                    }
                    BinOpKind::ScAnd | BinOpKind::ScOr => used,
                    _ => Use::Shown(0),
                };
                self.expression(&b.left, operands);
                self.expression(&b.right, operands);
            }
            Expr::Compare(c) => {
                self.expression(&c.expr, Use::Shown(0));
                c.ops.iter().for_each(|op| self.expression(&op.expr, Use::Shown(0)));
            }
            Expr::IfExpr(i) => {
                self.expression(&i.test_expr, Use::Shown(0));
                self.expression(&i.true_expr, used);
                i.false_expr.iter().for_each(|e| self.expression(e, used));
            }
            Expr::Filter(f) => {
                let used = if SCALAR_FILTERS.contains(&f.name) { Use::Shown(0) } else { Use::Kept };
                f.expr.iter().for_each(|e| self.expression(e, used));
                self.arguments(&f.args);
            }
            Expr::Test(t) => {
                self.expression(&t.expr, Use::Shown(0));
                self.arguments(&t.args);
            }
            Expr::GetAttr(g) => self.expression(&g.expr, Use::Kept),
            Expr::GetItem(g) => {
                self.expression(&g.expr, Use::Kept);
                self.expression(&g.subscript_expr, Use::Kept);
            }
            Expr::Call(c) => self.call(c),
            Expr::List(l) => l.items.iter().for_each(|e| self.expression(e, Use::Kept)),
            Expr::Tuple(t) => t.items.iter().for_each(|e| self.expression(e, Use::Kept)),
            Expr::Map(m) => m.keys.iter().chain(&m.values).for_each(|e| self.expression(e, Use::Kept)),
        }
    }

    /// Notes an addition of possible lists; gives what becomes of the two.
    fn add_lists(&mut self, line: usize, used: Use) -> Use {
        match used {
            Use::Shown(MAX_SHOWN) => self.refuse(line, "adds too many lists in one expression"),
            Use::Shown(around) => return Use::Shown(around + 1),
            Use::Kept if self.repeated => {
                self.refuse(line, "adds what may be lists in a loop or macro, which isn't supported (~ joins strings)");
            }
            Use::Kept => {
                self.kept += 1;
                if self.kept > MAX_KEPT {
                    self.refuse(line, "adds too many lists");
                }
            }
        }
        used
    }

    fn call(&mut self, call: &Call) {
        self.expression(&call.expr, Use::Kept);
        self.arguments(&call.args);
    }

    fn arguments(&mut self, arguments: &[CallArg]) {
        for argument in arguments {
            let (CallArg::Pos(e) | CallArg::Kwarg(_, e) | CallArg::PosSplat(e) | CallArg::KwargSplat(e)) = argument;
            self.expression(e, Use::Kept);
        }
    }
}

/// Whether an expression's value, if it has one, is surely no list.
fn is_scalar(expression: &Expr) -> bool {
    match expression {
        Expr::Const(c) => !matches!(c.value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map),
        Expr::UnaryOp(_) | Expr::Compare(_) | Expr::Test(_) => true,
        Expr::BinOp(b) => match b.op {
            BinOpKind::Add => is_scalar(&b.left) || is_scalar(&b.right),
            BinOpKind::ScAnd | BinOpKind::ScOr => is_scalar(&b.left) && is_scalar(&b.right),
            BinOpKind::Mul => is_string(&b.left) || is_string(&b.right) || (is_scalar(&b.left) && is_scalar(&b.right)),
            _ => true,
        },
        Expr::IfExpr(i) => is_scalar(&i.true_expr) && i.false_expr.as_ref().is_none_or(is_scalar),
        Expr::Filter(f) => SCALAR_FILTERS.contains(&f.name),
        _ => false,
    }
}

fn is_string(expression: &Expr) -> bool {
    matches!(expression, Expr::Const(c) if c.value.kind() == ValueKind::String)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(source: &str) -> bool {
        problem(source, SyntaxConfig::default()).unwrap().is_some()
    }

    #[test]
    fn strings_may_be_added_and_a_few_lists() {
        for source in [
            include_str!("template.jinja"),
            include_str!("../../../../testdata/tiny-mm16/chat_template.jinja"),
            "{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{{ m.content + eos_token }}{% endfor %}",
            "{% for m in messages %}{% set x = m.role + m.content + 'x' %}{% set y = x ~ x %}{% endfor %}",
            "{% for m in [first] + messages %}{% if m.a + m.b %}{% endif %}{% endfor %}",
            "{% set messages = messages + [last] %}",
            "{{ '-' * 20 }}{{ (i + 1) * 2 }}",
            "{% macro m(x) %}{{ (x + x) | trim }}{% endmacro %}",
        ] {
            assert_eq!(problem(source, SyntaxConfig::default()).unwrap(), None, "{source}");
        }
    }

    #[test]
    fn lists_may_not_grow() {
        for source in [
            "{% for i in x %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
            "{% for i in x %}{% set ns.x = ns.x + ('a' if i else ns.x) %}{% endfor %}",
            "{% for i in x %}{% set ns.x = [ns.x + ns.x] %}{% endfor %}",
            "{% for i in x %}{% set ns.x = (ns.x or 1) + (ns.x or 1) %}{% endfor %}",
            "{% for i in x %}{% if i %}{% set ns.x = 'ab' | list + ns.x %}{% endif %}{% endfor %}",
            "{% for i in x %}{% with y = x + x %}{% endwith %}{% endfor %}",
            "{% macro m(x) %}{{ m(x + x) }}{% endmacro %}",
            "{% macro m(x, y=x + x) %}{{ m(y) }}{% endmacro %}",
            "{% for i in x recursive %}{{ loop(x + x) }}{% endfor %}",
            "{% call(x) m() %}{{ m(x + x) }}{% endcall %}",
            &"{% set x = x + x %}".repeat(5),
            &format!("{{{{ x{} }}}}", "+x".repeat(9)),
            "{{ [1] * 100000 }}",
            "{{ x * n }}",
            "{{ ('a' if b else [1]) * n }}",
        ] {
            assert!(refused(source), "{source}");
        }
    }
}
