"""How questions are put. The last two of each list are held out: training never shows them."""

import random

HELD_OUT = 2

FINAL = (
    "You may write out your argument before stating your final, very short, definitive, and concise answer (no more "
    "than a few words or the letter corresponding to your answer choice if the question is multiple choice) X in the "
    'format "Final Answer: X":'
)
FINALS = (FINAL, 'Answer in the format "Final Answer: X".', 'End with "Final Answer: " and your answer.')
YES_NO = (*FINALS, 'End with "Final Answer: yes" or "Final Answer: no".')

NAMES = {
    "opacity": ("opacity", "lung opacity", "consolidation"),
    "nodule": ("nodule", "lung nodule", "pulmonary nodule"),
    "effusion": ("pleural effusion", "effusion", "pleural fluid collection"),
    "pneumothorax": ("pneumothorax",),
    "big heart": ("enlarged heart", "enlarged cardiac silhouette", "cardiomegaly"),
    "pacemaker": ("pacemaker", "cardiac device", "implanted device"),
}
PICTURE = ("chest X-ray", "chest radiograph", "image", "radiograph", "picture", "X-ray", "film")

PHRASES = {
    "presence": (
        "Tell me whether there is {a} {f}.", "Is this {f}?", "Do we have {a} {f} here?",
        "Could there be {a} {f} on this {p}?", "Is {a} {f} visible?", "Does the {p} contain {a} {f}?",
        "{A} {f}, yes or no?", "Have a look: is there {a} {f}?", "Is it true that there is {a} {f}?",
        "I suspect {a} {f}. Do you agree?",
        "Is there {a} {f} in this {p}?", "Does this {p} show {a} {f}?", "Do you see {a} {f}?", "Is {a} {f} present?",
        "Look for {a} {f} in this {p}. Is there one?", "{A} {f}: yes or no?", "Can you see {a} {f} in the {p}?",
        "Is there evidence of {a} {f}?", "Does the patient have {a} {f}?", "Any {f} on this {p}?",
        "Would you say that this {p} shows {a} {f}?", "Check this {p} for {a} {f}: is it there?",
    ),
    "side": (
        "Is it the right or the left side that has the {f}?", "Right or left {f}?", "What side is the {f} on?",
        "Tell me which side the {f} is on.", "Which of the two sides shows the {f}?", "The side of the {f}?",
        "Say on which side you see the {f}.", "State the side on which the {f} lies.",
        "Does the {f} lie right or left?",
        "Which side is the {f} on?", "On which side is the {f}?", "Is the {f} on the right or on the left?",
        "Where is the {f}, right or left?", "Which lung is affected by the {f}?", "Name the side of the {f}.",
        "The {f}: which side?", "Tell me the side of the {f}.", "Left or right: where is the {f}?",
    ),
    "size": (
        "Give the size of the {f}.", "Would you call the {f} small, moderate or large?", "Say how large the {f} is.",
        "Which size is the {f}?", "The size of the {f}?", "Estimate how big the {f} is.",
        "How large is the {f}?", "What is the size of the {f}?", "Is the {f} small, moderate or large?",
        "How big is the {f}?",
        "Grade the size of the {f}.", "Tell me the size of the {f}.", "Small, moderate or large: how is the {f}?",
    ),
    "zone": (
        "Say in which zone the {f} lies.", "Which of the zones shows the {f}?", "Give the zone of the {f}.",
        "Tell me the lung zone of the {f}.", "Is the {f} up, in the middle or down? Name the zone.",
        "The zone of the {f}?",
        "In which zone is the {f}?", "Is the {f} in the upper, mid or lower zone?", "Which lung zone holds the {f}?",
        "What zone is the {f} in?", "Name the zone of the {f}.", "Upper, mid or lower: where is the {f}?",
        "At what height is the {f}: upper, mid or lower zone?",
    ),
    "report": (
        "Tell me what you see in this {p}.", "I need a report on this {p}.", "Dictate the report.",
        "Give me your reading of this {p}.", "Please describe all findings.",
        "Write down the findings and the impression.", "Full report, please.", "Interpret this {p} and write a report.",
        "Describe this {p}.", "Describe the findings in this {p}.", "Write a findings report for this {p}.",
        "findings:",
        "What do you see in this {p}?", "Report this {p}.", "Please give findings and impression.",
        "Provide a radiology report.", "Read this {p} for me.", "What does this {p} show?",
        "Summarise this {p} in a report.", "Could you report on this {p}?",
    ),
    "list": (
        "Which abnormalities do you see?", "Name what is abnormal.", "What is wrong with this {p}?",
        "Give all abnormal findings in short.", "Impression?", "Is this {p} normal?",
        "List the abnormalities.", "What is abnormal in this {p}?", "Name every abnormal finding.",
        "Is anything abnormal?",
        "What are the abnormal findings?", "Give the impression only.", "Tell me all that is abnormal here.",
    ),
    "box": (
        "Where do you see the {f}? Give box_2d JSON.", "Find the {f} and give its box as JSON.",
        "Show me the {f} as a box.", "Box for the {f}, please.", "Return the box_2d of the {f}.", "Localise the {f}.",
        "JSON box of the {f}?", "Give me box_2d and label of the {f} in JSON.",
        "Where is the {f}? Answer with box_2d JSON.", "Locate the {f} and return box_2d as JSON.",
        "Give the bounding box of the {f} as JSON.", "Return a JSON list with box_2d and label for the {f}.",
        "Draw a box around the {f}.", "Detect the {f}.", "Mark the {f} with a box.",
        "Box the {f} as JSON, please.", "Point at the {f} with box_2d JSON.",
    ),
    "boxes": (
        "Find all abnormalities and box them as JSON.", "Give box_2d and label for all findings.",
        "Localise everything that is abnormal.", "All abnormal findings as boxes, please.",
        "Return boxes for each abnormality.",
        "Locate every abnormality as box_2d JSON.", "Draw boxes around all abnormal findings.",
        "Return a JSON list with box_2d and label for each finding.", "Detect all abnormalities.",
        "Mark all findings with boxes.", "Box every finding as JSON.",
    ),
    "kind": (
        "Tell me what kind of image this is.", "What sort of picture is it?", "Which imaging modality do you see?",
        "Say which type of image this is.", "Is this an X-ray, a photograph or a CT slice?",
        "What kind of image is this?", "What am I looking at?", "Which modality is this?",
        "What type of picture is this?",
        "Name the kind of this image.", "Which sort of image did I send?",
    ),
    "inverted": (
        "Does the {p} look inverted?", "Is this shown as a negative?", "Are bright and dark reversed?",
        "Tell me if the grey levels are inverted.",
        "Is this image inverted?", "Are the grey levels inverted?", "Is the polarity of this {p} inverted?",
        "Are black and white swapped?", "Has this {p} been shown as a negative?",
    ),
    "change": (
        "Is the {f} better or worse than before?", "Did the {f} get better, worse or stay the same?",
        "Tell me how the {f} developed.", "Compared with the earlier image, how is the {f}?",
        "Has there been any change of the {f}?", "Follow-up of the {f}: what is the change?",
        "Has the {f} improved, worsened or stayed stable?", "How has the {f} changed?",
        "Compare the two images: how did the {f} change?",
        "Is the {f} improved, stable or worsened?", "Describe the change of the {f} between the two images.",
        "What happened to the {f}?", "Between the two images, did the {f} get better or worse?",
    ),
    "diagnosis": (
        "Which one is right?", "What would you diagnose?", "Select the diagnosis that fits.",
        "Which of the options fits the image?", "Tell me the diagnosis.", "Decide on one diagnosis.",
        "What is the diagnosis?", "Which diagnosis fits this image best?", "What does this image show?",
        "Choose the diagnosis.",
        "Which of these is it?", "What is the most likely diagnosis?", "Pick the right diagnosis for this image.",
    ),
    "describe": (
        "Describe what you see.", "What is in this picture?", "Tell me what the image shows.",
        "Say what this is and describe it.", "Please interpret the picture.", "Look at this image and describe it.",
        "Describe this image.", "What do you see?", "What does this image show?", "Tell me about this image.",
        "Interpret this image.",
        "Give a short description of the image.", "Explain what is in this image.",
    ),
    "eye": (
        "Say which eye it is.", "Does this show the right or the left eye?", "Is it a right eye or a left eye?",
        "What eye am I looking at?", "Which of the two eyes is this?",
        "Which eye is this?", "Is this the right or the left eye?", "Right or left eye?", "Name the eye.",
        "Tell me which eye is shown.",
    ),
    "slices": (
        "Tell me the slices on which the {f} can be seen.", "Which slice numbers show the {f}?",
        "Give the numbers of the slices with the {f}.", "Where in the series is the {f}? Name the slices.",
        "Count up the slices that show the {f}.",
        "In which slices is the {f} visible?", "Which slices show the {f}?", "List the slices with the {f}.",
        "Name all slices that show the {f}.",
        "On what slices do you see the {f}?", "The {f} is on which slices?",
    ),
    "bleed": (
        "Tell me whether there is {a} {f}.", "Could this be {a} {f}?", "Do you see {a} {f} on any slice?",
        "Does any slice show {a} {f}?", "Is {a} {f} visible?",
        "Is there {a} {f} in these slices?", "Do the slices show {a} {f}?", "Does this head CT show {a} {f}?",
        "Is {a} {f} present?", "Any {f} in this head CT?", "Look at all slices: is there {a} {f}?",
    ),
    "fact": (
        "Which is correct? {q}", "{q} Pick one option.", "Tell me: {q}", "I have a question: {q}", "Answer this: {q}",
        "{q} Select the right option.",
        "{q}", "Question: {q}", "Please answer: {q}", "A question for you. {q}", "{q} Choose one.", "Quiz: {q}",
        "Exam question. {q}", "Try this one: {q}",
    ),
}  # fmt: skip


def article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


BEFORE = (
    "Please: ", "Question: ", "Doctor, ", "Tell me: ", "I would like to know: ", "Quick question. ", "Now, ",
    "One more thing: ",
    "Look closely. ", "For the notes: ", "Hello. ", "Next: ", "Thanks. ", "OK. ", "Be brief. ", "My colleague asks: ",
    "Then: ",
)  # fmt: skip
AFTER = (
    " Thanks.",
    " Please.",
    " Thank you.",
    " Be brief.",
    " I am not sure.",
    " Take your time.",
    " Answer in short.",
    " Please be exact.",
)


def loosely(rng: random.Random, text: str) -> str:
    """The same question as people type it: words before or after it, a small first letter, no mark at its end."""
    if rng.random() < 0.65 or text.endswith("findings:"):
        return text
    if rng.random() < 0.5:
        text = text[0].lower() + text[1:] if text[:2].istitle() and text[:2] != "I " else text
    if rng.random() < 0.3 and text[-1] in "?.":
        text = text[:-1]
    if rng.random() < 0.5:
        text = rng.choice(BEFORE) + text
    if rng.random() < 0.3:
        text += rng.choice(AFTER)
    return text


def pick(rng: random.Random, key: str, unseen: bool, **words: str) -> str:
    """A phrasing with its words filled in: one of training, or a held-out one."""
    choices = PHRASES[key]
    text = rng.choice(choices[-HELD_OUT:] if unseen else choices[:-HELD_OUT])
    if "f" in words:
        a = article(words["f"])
        words |= {"a": a, "A": a.capitalize()}
    words.setdefault("p", rng.choice(PICTURE))
    text = text.format(**words)
    return text if unseen else loosely(rng, text)
