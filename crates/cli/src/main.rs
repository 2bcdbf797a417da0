//! The `medgemma` command.

fn main() {
    eprintln!("medgemma: no command works yet; the engine is being built");
    std::process::exit(1);
}
