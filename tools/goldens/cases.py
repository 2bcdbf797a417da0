"""What the checkpoints are asked."""

LONG = (
    "The patient is a 63 year old woman with type 2 diabetes, high blood pressure and asthma who comes to the clinic "
    "with chest pain and shortness of breath. She has had the pain for three days. On examination the heart rate is 88 "
    "beats per minute, the blood pressure is 142/86 mmHg, and the oxygen saturation is 96% on room air. The chest X-ray "
    "shows a normal heart size, clear lungs, and no pleural effusion or pneumothorax. What is the most likely diagnosis?"
)
WORLD = (
    "Où avez-vous mal ? L'épaule, ça fait mal. Größe: 1,75 m — naïve œdème. ¿Alergia? Ñandú.\n\n\n"
    "胸部X光片显示肺部清晰，没有骨折。熱と咳があります。한국어 환자. Рентген. Ο ασθενής. الحمى. बुखार 🫀🩻👩🏽‍⚕️  ok\t\tend"
)


def image(name: str) -> dict:
    return {"type": "image", "image": name}


def text(value: str) -> dict:
    return {"type": "text", "text": value}


def user(*parts) -> dict:
    return {"role": "user", "content": list(parts) if len(parts) > 1 or isinstance(parts[0], dict) else parts[0]}


def model(value: str) -> dict:
    return {"role": "assistant", "content": value}


def system(value: str) -> dict:
    return {"role": "system", "content": value}


TEXT = [
    {"name": "short", "messages": [user("What is the heart rate?")]},
    {"name": "past the window", "messages": [user(LONG)]},
    {"name": "three turns", "messages": [
        user("Is the heart normal?"), model("The heart size is normal."),
        user("And the lungs?"), model(" The lungs are clear.\n"),
        user("Then what is the pain?"),
    ]},
    {"name": "system", "messages": [system("You are an expert radiologist."), user("Describe the findings.")]},
    {"name": "padded system", "messages": [system("  be brief \n"), user("  Why the pain? \n")]},
    {"name": "thinking system", "messages": [
        system("SYSTEM INSTRUCTION: think silently if needed. You are a helpful medical assistant."), user("Rule out melanoma?"),
    ]},
    {"name": "many scripts", "messages": [user(WORLD)]},
    {"name": "raw text", "text": "The lungs are clear. The heart"},
    {"name": "raw long text", "text": LONG},
]  # fmt: skip

IMAGES = [
    {"name": "one image", "messages": [user(image("rgb-90x61.png"), text("Describe this image."))]},
    {"name": "image after text", "messages": [user(text("Describe this image.\n"), image("rgba-70x45.png"))]},
    {"name": "image alone", "messages": [user(image("palette-64x48.png"))]},
    {"name": "two images", "messages": [
        user(text("The earlier image:"), image("grey-120x80.png"), text("The later image:"), image("grey-alpha-40x52.png"),
             text("What has changed?")),
    ]},
    {"name": "two images side by side", "messages": [
        user(image("rgb-61x90.png"), image("tall-20x400.png"), text("What has changed?")),
    ]},
    {"name": "images in three turns", "messages": [
        system("You are an expert radiologist."),
        user(image("grey-120x80.png"), text("Describe this image.")), model("The lungs are clear."),
        user(text("And this one?")), model("Which?"),
        user(text("This, and the last."), image("bit-33x20.png"), image("palette-alpha-48x64.png")),
    ]},
    {"name": "image past the window", "messages": [
        user(image("rgb-90x61.png"), text("The patient is a 63 year old woman with chest pain. Describe this image in a few words.")),
    ]},
    {"name": "image after a long text", "messages": [user(text(LONG), image("dot-1x1.png"), text("Answer."))]},
    {"name": "pan and scan", "pan_and_scan": True, "messages": [
        user(image("wide-700x300.png"), text("Describe this image.")),
    ]},
    {"name": "pan and scan, one of two", "pan_and_scan": True, "messages": [
        user(image("rgb-61x90.png"), image("wide-700x300.png"), text("Describe the two images.")),
    ]},
]  # fmt: skip

# The first of these whose reply ends by itself, within the steps allowed, is the case that stops.
STOPPING = [
    "Is it normal?", "Is there pain?", "Any fever?", "Final Answer?", "Say no.", "Where is the pain?", "How old is the patient?",
    "Any allergy?", "Which drug?", "Is the lung clear?", "Any cough?", "Say yes.", "What now?", "Is the heart large?", "Why?",
    "What is HbA1c?", "Is the skin red?", "Who are you?", "Any swelling?", "Thank you.", "Is it acute?", "Any bone pain?",
]  # fmt: skip
