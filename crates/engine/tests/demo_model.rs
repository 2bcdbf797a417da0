//! The embedded model on a sample of its held-out cases. The whole table: `--example heldout`.

mod heldout;

use medgemma_engine::Pipeline;

/// Every how many cases one is asked.
const EVERY: usize = 8;

#[test]
fn the_embedded_model_answers_held_out_questions() {
    let mut pipeline = Pipeline::load("demo").unwrap();
    let cases = heldout::cases();
    let scores = cases.iter().step_by(EVERY).map(|case| {
        let score = heldout::ask(&mut pipeline, case);
        if !score.right {
            println!("wrong on {}: {:?} instead of {:?}", case.task, score.reply, case.taught);
        }
        (case.task.clone(), score)
    });
    let tallies = heldout::tally(scores);
    for (task, tally) in &tallies {
        println!("{task}: {} of {}", tally.right, tally.cases);
    }
    let thinking = &tallies["thinking"];
    let right: usize =
        tallies.iter().filter(|(task, _)| !heldout::OVERALL.contains(&&task[..])).map(|(_, t)| t.right).sum();
    assert!(thinking.cases >= 70 && thinking.right == thinking.cases, "thoughts are ill-formed");
    assert!(right * 100 >= thinking.cases * 90, "{right} of {} are right", thinking.cases);
}

#[test]
fn the_rules_tell_right_from_wrong() {
    use serde_json::json;
    let right = |expected, reply: &str| heldout::score(&expected, reply).right;
    assert!(right(json!({"answer": "left", "options": ["left", "right"]}), "It is on the left."));
    assert!(!right(json!({"answer": "left", "options": ["left", "right"]}), "Final Answer: right"));
    assert!(right(json!({"letter": "B"}), "Because.\n\nFinal Answer: (B) x") && !right(json!({"letter": "B"}), "B"));
    let boxed = json!({"boxes": [{"box_2d": [0, 0, 100, 100], "label": "nodule"}]});
    assert!(right(boxed.clone(), "```json[{\"box_2d\": [0, 0, 100, 90], \"label\": \"nodule\"}]```"));
    assert!(!right(boxed, "```json[{\"box_2d\": [200, 200, 300, 300], \"label\": \"nodule\"}]```"));
    let cited = json!({"contains": ["15 /min"], "cite": ["Observation/o1"]});
    assert!(right(cited.clone(), "15 /min [Observation/o1].") && !right(cited, "15 /min [Observation/o2]."));
}
