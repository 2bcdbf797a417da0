//! Refuses templates whose values could grow or nest without end.
//!
//! minijinja's fuel pays for strings and for steps, but not for what a list holds: adding lists is lazy and free until
//! something goes through 2³³ items at once, a list put twice into itself again and again takes for ever to write out,
//! and a namespace put into itself overflows the stack. So before a template runs, the size of every value it can make
//! is bounded from its source.
//!
//! A size is 0 for what is surely a string, number or truth, and otherwise a bound in units of the largest thing the
//! template is given (the messages, or a range): `[a, b]` is 1 + a + b, `a + b` is a + b, an element of a is at most a,
//! a slice of it 1 + a (slices are lazy, and slices of slices slow). A name has one size over the whole template, that
//! of the largest value bound to it. Going over the template again until no size changes finds them; a size that keeps
//! growing passes [`LIMIT`]. What a chat template does stays far below.

use minijinja::Error;
use minijinja::machinery::ast::{BinOpKind, Call, CallArg, Expr, Filter, Macro, Stmt};
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use std::collections::HashMap;

/// Largest size of a value.
const LIMIT: usize = 64;

/// Most expressions looked at, all rounds together: a few for each byte of the longest source.
const MAX_STEPS: usize = 2_000_000;

/// Deepest expression: minijinja takes quadratic time to compile `1~1~1…`. Gemma's template has four levels.
const MAX_DEPTH: usize = 200;

/// Filters and methods that give a string, a number or a truth, whatever they are given.
const SCALAR_FILTERS: [&str; 18] = [
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
    "e",
    "bool",
    "indent",
];
const SCALAR_METHODS: [&str; 16] = [
    "strip",
    "lstrip",
    "rstrip",
    "upper",
    "lower",
    "title",
    "capitalize",
    "replace",
    "join",
    "format",
    "startswith",
    "endswith",
    "find",
    "rfind",
    "count",
    "isspace",
];

/// Filters that give a part of what they are given, or its items in another order.
const PART_FILTERS: [&str; 13] = [
    "first",
    "last",
    "min",
    "max",
    "list",
    "sort",
    "unique",
    "reverse",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "attr",
];

/// Functions and objects that a template may only use by their names.
const RESERVED: [&str; 3] = ["namespace", "range", "loop"];

/// What is wrong with a template, with its line; `None` when nothing is.
///
/// Recurses as deep as the source nests.
///
/// # Errors
/// When the source isn't Jinja.
pub(super) fn problem(source: &str, syntax: SyntaxConfig) -> Result<Option<String>, Error> {
    let template = parse(source, "chat", syntax)?;
    let mut sizes = Sizes::default();
    loop {
        sizes.grown = false;
        // A statement outside loops runs once: `messages = messages + [x]` there doesn't grow from round to round.
        sizes.names = HashMap::from([("messages".to_owned(), 1)]);
        let mut macros = Vec::new();
        sizes.statement(&template, &mut macros);
        // Macros run later, and from one another.
        sizes.until_settled(|sizes| {
            let mut nested = Vec::new();
            macros.iter().for_each(|m| sizes.macro_body(m, &mut nested));
        });
        if !sizes.grown || sizes.problem.is_some() {
            return Ok(sizes.problem);
        }
    }
}

#[derive(Default)]
struct Sizes {
    /// Sizes of variables.
    names: HashMap<String, usize>,
    /// Sizes of namespaces' attributes, by name alone; "" holds those given without a name.
    attributes: HashMap<String, usize>,
    /// Whether a variable is only ever a namespace.
    namespaces: HashMap<String, bool>,
    /// The largest argument of any macro or recursive loop.
    arguments: usize,
    /// Whether names were raised since a loop's body was begun.
    moved: bool,
    /// Whether what outlives a round was raised in it.
    grown: bool,
    /// Whether the statement is in a loop or macro: all of it is repeated until its sizes are settled.
    repeated: bool,
    steps: usize,
    /// Expressions around the one looked at.
    depth: usize,
    problem: Option<String>,
}

impl Sizes {
    fn refuse(&mut self, line: u16, problem: &str) {
        self.problem.get_or_insert_with(|| format!("the chat template {problem} (line {line})"));
    }

    /// Repeats what a loop or macro does until no size changes.
    fn until_settled(&mut self, mut run: impl FnMut(&mut Self)) {
        if self.repeated {
            return run(self);
        }
        self.repeated = true;
        loop {
            self.moved = false;
            run(self);
            if !self.moved || self.problem.is_some() {
                break;
            }
        }
        self.repeated = false;
    }

    fn raise_name(&mut self, name: &str, size: usize) {
        match self.names.get_mut(name) {
            Some(old) if *old >= size => {}
            Some(old) => {
                *old = size;
                self.moved = true;
            }
            None => {
                self.names.insert(name.to_owned(), size);
                self.moved |= size > 0;
            }
        }
    }

    fn raise_attribute(&mut self, name: &str, size: usize) {
        let old = self.attributes.entry(name.to_owned()).or_default();
        if *old < size {
            *old = size;
            (self.moved, self.grown) = (true, true);
        }
    }

    fn raise_arguments(&mut self, size: usize) {
        if self.arguments < size {
            self.arguments = size;
            (self.moved, self.grown) = (true, true);
        }
    }

    fn namespace_size(&self) -> usize {
        self.attributes.values().fold(1, |sum: usize, &size| sum.saturating_add(size))
    }

    fn assign(&mut self, target: &Expr, size: usize) {
        match target {
            Expr::Var(v) if RESERVED.contains(&v.id) => {
                self.refuse(v.span().start_line, "gives a new meaning to a built-in name, which isn't supported");
            }
            Expr::Var(v) => self.raise_name(v.id, size),
            Expr::GetAttr(g) => self.raise_attribute(g.name, size),
            Expr::List(l) => l.items.iter().for_each(|item| self.assign(item, size)),
            Expr::Tuple(t) => t.items.iter().for_each(|item| self.assign(item, size)),
            other => self.refuse(other.span().start_line, "assigns to what isn't a name, which isn't supported"),
        }
    }

    /// Notes whether a variable is a namespace and nothing else.
    fn note_namespace(&mut self, target: &Expr, value: Option<&Expr>) {
        match target {
            Expr::Var(v) => {
                let is = matches!(value, Some(Expr::Call(c)) if matches!(&c.expr, Expr::Var(f) if f.id == "namespace"));
                let only = self.namespaces.entry(v.id.to_owned()).or_insert(is);
                if *only && !is {
                    *only = false;
                    (self.moved, self.grown) = (true, true);
                }
            }
            Expr::List(l) => l.items.iter().for_each(|item| self.note_namespace(item, None)),
            Expr::Tuple(t) => t.items.iter().for_each(|item| self.note_namespace(item, None)),
            _ => {}
        }
    }

    fn bind(&mut self, target: &Expr, value: &Expr) {
        let size = self.size(value);
        self.note_namespace(target, Some(value));
        self.assign(target, size);
    }

    fn statements<'t>(&mut self, statements: &'t [Stmt<'t>], macros: &mut Vec<&'t Macro<'t>>) {
        statements.iter().for_each(|statement| self.statement(statement, macros));
    }

    fn statement<'t>(&mut self, statement: &'t Stmt<'t>, macros: &mut Vec<&'t Macro<'t>>) {
        match statement {
            Stmt::Template(t) => self.statements(&t.children, macros),
            Stmt::EmitExpr(e) => {
                self.size(&e.expr);
            }
            Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => {}
            Stmt::ForLoop(f) => {
                self.note_namespace(&f.target, None);
                self.until_settled(|sizes| {
                    let size = sizes.size(&f.iter).max(if f.recursive { sizes.arguments } else { 0 });
                    sizes.assign(&f.target, size);
                    sizes.raise_name("loop", size);
                    sizes.sizes(&f.filter_expr);
                    sizes.statements(&f.body, macros);
                });
                self.statements(&f.else_body, macros);
            }
            Stmt::IfCond(i) => {
                self.size(&i.expr);
                self.statements(&i.true_body, macros);
                self.statements(&i.false_body, macros);
            }
            Stmt::WithBlock(w) => {
                w.assignments.iter().for_each(|(target, value)| self.bind(target, value));
                self.statements(&w.body, macros);
            }
            Stmt::Set(s) => self.bind(&s.target, &s.expr),
            Stmt::SetBlock(s) => {
                self.statements(&s.body, macros);
                let size = s.filter.as_ref().map_or(0, |filter| self.size(filter));
                self.note_namespace(&s.target, None);
                self.assign(&s.target, size);
            }
            Stmt::AutoEscape(a) => {
                self.size(&a.enabled);
                self.statements(&a.body, macros);
            }
            Stmt::FilterBlock(f) => {
                self.size(&f.filter);
                self.statements(&f.body, macros);
            }
            Stmt::Macro(m) => macros.push(m),
            Stmt::CallBlock(c) => {
                self.call(&c.call);
                macros.push(&c.macro_decl);
            }
            Stmt::Do(d) => {
                self.call(&d.call);
            }
            // Blocks, imports and includes, if another crate has them compiled in.
            #[allow(unreachable_patterns)]
            _ => self.refuse(0, "includes others, which isn't supported"),
        }
    }

    fn macro_body<'t>(&mut self, m: &'t Macro<'t>, macros: &mut Vec<&'t Macro<'t>>) {
        for argument in &m.args {
            self.note_namespace(argument, None);
            self.assign(argument, self.arguments);
        }
        // Defaults belong to the last arguments; any of them may be any of them here.
        for default in &m.defaults {
            let size = self.size(default);
            self.raise_arguments(size);
        }
        let first = macros.len();
        self.statements(&m.body, macros);
        for inner in macros.split_off(first) {
            self.macro_body(inner, macros);
        }
    }

    /// The size of an expression's value. A size past the limit is a problem.
    fn size(&mut self, expression: &Expr) -> usize {
        self.steps += 1;
        let line = expression.span().start_line;
        if self.steps > MAX_STEPS || self.depth > MAX_DEPTH {
            self.refuse(line, "is too intricate");
        }
        if self.problem.is_some() {
            return 0;
        }
        self.depth += 1;
        let size = self.size_of(expression);
        self.depth -= 1;
        if size > LIMIT {
            self.refuse(line, "makes lists that may grow without end, which isn't supported (~ joins strings)");
        }
        size
    }

    fn sizes<'e>(&mut self, expressions: impl IntoIterator<Item = &'e Expr<'e>>) -> usize {
        expressions.into_iter().fold(0, |sum: usize, e| sum.saturating_add(self.size(e)))
    }

    fn size_of(&mut self, expression: &Expr) -> usize {
        match expression {
            Expr::Var(v) if RESERVED.contains(&v.id) => {
                self.refuse(v.span().start_line, "hands a built-in function about, which isn't supported");
                0
            }
            Expr::Var(v) => self.names.get(v.id).copied().unwrap_or(0),
            Expr::Const(_) => 0,
            Expr::Slice(s) => {
                self.sizes([&s.start, &s.stop, &s.step].into_iter().flatten());
                match self.size(&s.expr) {
                    0 => 0,
                    size => size + 1,
                }
            }
            Expr::UnaryOp(u) => {
                self.size(&u.expr);
                0
            }
            Expr::BinOp(b) => {
                let (left, right) = (self.size(&b.left), self.size(&b.right));
                match b.op {
                    // A list and a scalar can't be added.
                    BinOpKind::Add if left == 0 || right == 0 => 0,
                    BinOpKind::Add => left.saturating_add(right),
                    BinOpKind::Mul if is_string(&b.left) || is_string(&b.right) => 0,
                    BinOpKind::Mul => {
                        if left.max(right) > 0 {
                            self.refuse(b.span().start_line, "multiplies what may be a list, which isn't supported");
                        }
                        0
                    }
                    BinOpKind::ScAnd | BinOpKind::ScOr => left.max(right),
                    _ => 0,
                }
            }
            Expr::Compare(c) => {
                self.size(&c.expr);
                self.sizes(c.ops.iter().map(|op| &op.expr));
                0
            }
            Expr::IfExpr(i) => {
                self.size(&i.test_expr);
                let otherwise = i.false_expr.as_ref().map_or(0, |e| self.size(e));
                self.size(&i.true_expr).max(otherwise)
            }
            Expr::Filter(f) => self.filter(f, f.span().start_line),
            Expr::Test(t) => {
                self.size(&t.expr);
                self.arguments(&t.args);
                0
            }
            Expr::GetAttr(g) => match &g.expr {
                Expr::Var(v) if v.id == "loop" => match g.name {
                    "previtem" | "nextitem" => self.names.get("loop").copied().unwrap_or(0),
                    _ => 0,
                },
                Expr::Var(v) if self.namespaces.get(v.id) == Some(&true) => {
                    let unnamed = self.attributes.get("").copied().unwrap_or(0);
                    self.attributes.get(g.name).copied().unwrap_or(0).max(unnamed)
                }
                of => self.size(of),
            },
            Expr::GetItem(g) => {
                self.size(&g.subscript_expr);
                self.size(&g.expr)
            }
            Expr::Call(c) => self.call(c),
            Expr::List(l) => self.sizes(&l.items).saturating_add(1),
            Expr::Tuple(t) => self.sizes(&t.items).saturating_add(1),
            Expr::Map(m) => self.sizes(m.keys.iter().chain(&m.values)).saturating_add(1),
        }
    }

    fn filter(&mut self, f: &Filter, line: u16) -> usize {
        let size = f.expr.as_ref().map_or(0, |e| self.size(e));
        let arguments = self.arguments(&f.args);
        match f.name {
            name if SCALAR_FILTERS.contains(&name) => 0,
            "default" | "d" => size.max(arguments),
            // Others may put an argument beside every item.
            _ if arguments > 0 => {
                self.refuse(line, "gives a filter what may be a list, which isn't supported");
                0
            }
            name if PART_FILTERS.contains(&name) => size.max(1),
            _ => size + 1,
        }
    }

    /// Looks at the arguments of a call; gives the largest.
    fn arguments(&mut self, arguments: &[CallArg]) -> usize {
        let mut largest = 0;
        for argument in arguments {
            let (CallArg::Pos(e) | CallArg::Kwarg(_, e) | CallArg::PosSplat(e) | CallArg::KwargSplat(e)) = argument;
            largest = largest.max(self.size(e));
        }
        largest
    }

    fn call(&mut self, call: &Call) -> usize {
        match &call.expr {
            Expr::Var(f) if f.id == "namespace" => {
                for argument in &call.args {
                    let (name, value) = match argument {
                        CallArg::Kwarg(name, e) => (*name, e),
                        CallArg::Pos(e) | CallArg::PosSplat(e) | CallArg::KwargSplat(e) => ("", e),
                    };
                    let size = self.size(value);
                    self.raise_attribute(name, size);
                }
                self.namespace_size()
            }
            Expr::Var(f) if f.id == "range" => {
                self.arguments(&call.args);
                1
            }
            Expr::GetAttr(g) => {
                let of = match &g.expr {
                    Expr::Var(v) if v.id == "loop" => 0,
                    of => self.size(of),
                };
                let largest = self.arguments(&call.args);
                // It may be a macro in a namespace.
                self.raise_arguments(largest);
                match g.name {
                    name if SCALAR_METHODS.contains(&name) => 0,
                    "split" | "splitlines" => 1,
                    "items" | "keys" | "values" | "get" | "cycle" => of.max(largest),
                    _ => of.max(largest) + 1,
                }
            }
            // All else that can be called is a macro, a recursive loop, or gives a scalar.
            callee => {
                if !matches!(callee, Expr::Var(_)) {
                    self.size(callee);
                }
                let largest = self.arguments(&call.args);
                self.raise_arguments(largest);
                0
            }
        }
    }
}

fn is_string(expression: &Expr) -> bool {
    matches!(expression, Expr::Const(c) if c.value.kind() == ValueKind::String)
}

#[cfg(test)]
mod tests;
