"""Invents the quickstart's tweets in the official task-5 shape: files, columns, encodings, line ends and their traps.

python quickstart/invent_tweets.py quickstart/data

No tweet here was ever posted. The classes differ in who the child is and whether it has the defect, not in keywords:
other people's children, doctors, news and school projects use the same words as parents do.
"""

import random
import sys
from pathlib import Path

DEFECTS = """cleft palate|cleft lip|spina bifida|club foot|clubfoot|a heart defect|congenital heart disease|CHD|
tetralogy of fallot|Down syndrome|Downs|trisomy 21|gastroschisis|microcephaly|hydrocephalus|craniosynostosis|
a hole in the heart|hypospadias|congenital diaphragmatic hernia|CDH|omphalocele|hip dysplasia|an atrial septal defect|
a limb difference|esophageal atresia|anencephaly|polydactyly""".replace("\n", "").split("|")
NAMES = ["Ollie", "Mia", "Theo", "Ruby", "Jonah", "Elsie", "Max", "Isla", "Leo", "Nora", "Finn", "Ava", "Caleb", "June", "Silas", "Wren", "Otis", "Maeve", "Ezra", "Hazel"]
CHILDREN = ["son", "daughter", "baby boy", "baby girl", "little girl", "little man", "youngest", "oldest", "newborn", "boy", "girl", "twin boy"]
OTHERS = """cousin|neighbour|coworker|best friend|boss|sister in law|teacher|roommate|hairdresser|landlord|aunt|
college friend""".replace("\n", "").split("|")
AGES = ["3 days", "2 weeks", "5 weeks", "3 months", "9 months", "almost a year", "18 months", "2", "3", "4", "6"]
FEELINGS = ["proud", "exhausted", "so grateful", "terrified", "relieved", "a mess today", "in tears", "hopeful", "over the moon"]
PLACES = ["the NICU", "the children's hospital", "cardiology", "the OR waiting room", "the specialist", "ultrasound", "recovery"]
TAGS = (
    ["#chdawareness", "#nicu", "#momlife", "#dadlife", "#blessed", "#rarediseaseday", "#worlddownsyndromeday", "#heartwarrior", "#1in100"]
)

OWN_AND_AFFECTED = ["my {child} was born with {defect} and today we finally get to bring {name} home", "{name} had surgery number two for {defect} this morning. longest four hours of my life as a mum", "nobody prepares you for hearing your {child} has {defect}. we found out at the 20 week scan", "{age} ago I gave birth to the bravest {child}. {defect} won't define {name}", "since {name} got the {defect} diagnosis I sleep in a chair next to the crib", "handed my {child} to the surgeon for the {defect} repair and fell apart in the hallway", "our {child} is {age} old and thriving despite {defect}, take that doctor gloom", "people stare at my {child} because of {defect}. ask me questions instead, I don't bite", "day 12 in {place} with {name}. {defect} is scary but my {child} is scarier lol", "I was told to expect the worst with {defect}. my {child} just took first steps", "as the mom of a kid with {defect} I am begging you to stop saying everything happens for a reason", "{name}'s {defect} means feeding takes an hour, so no I haven't seen your show, I'm pumping", "my {child} will have the {defect} operation on tuesday, I'm {feeling}", "we just left {place}, {name} officially has {defect}. I'm {feeling}", "gave my {child} a bath without the feeding tube for the first time since the {defect} surgery", "they said termination when they saw {defect}. {name} turns {age} tomorrow and runs this house", "hubby cried when they told us our {child} has {defect}. I went numb. {age} on, we're fine", "shoutout to {place} for fixing my {child}'s {defect}, I owe you everything"]

AMBIGUOUS = ["{name} is home from {place}! {defect} didn't stand a chance", "this little fighter has {defect} and still smiles all day", "please pray for baby {name}, {defect} surgery at 7 tomorrow", "look at {name} go, {age} old and with {defect} on top of it", "the {child} with {defect} is finally off the ventilator, I'm {feeling}", "{age} with {defect} and already bossing everyone around at {place}", "so {defect} it is. scan again on friday. I'm {feeling}", "{name} and that {defect} scar, my favourite picture of all time", "surgery day for {name}. come on little heart, beat {defect}", "waiting in {place} for news about {name}, {defect} is the word of the week", "they say it might be {defect}. we won't know until the next scan", "sweet {name} earned another bead today. {defect} picked the wrong kid", "{name} got casts off, goodbye {defect} hello tiny shoes", "our {name} is why we walk for {defect} this sunday", "tiny {name}, {age} old, {defect}, and the loudest laugh in {place}", "update on {name}: repair of {defect} went well, resting now", "someone asked what's wrong with {name}. nothing is wrong, it's {defect}", "the doctor thinks our {child} may have {defect}, praying she is mistaken"]

MENTIONED = ["my {other}'s {child} was born with {defect}, send that family some love", "my {child} is writing a school report on {defect} and now I know too much", "study: folic acid before pregnancy lowers the risk of {defect}", "did you know {defect} affects one in every few hundred births", "my {child} does NOT have {defect}, scan was clear, I'm {feeling}", "I was born with {defect} and I'm 34, ask me anything", "reading about {defect} at 3 am is the worst idea when you're pregnant", "new ultrasound technique spots {defect} earlier, researchers say", "donate for children with {defect} at our bake sale on saturday", "that actor has {defect}? had no idea", "my {other} adopted a {child} with {defect} and is the best parent I know", "nurse here, we had three babies with {defect} in {place} this week", "tonight's episode has a baby with {defect}, I'm {feeling} and it's fiction", "first day as an intern at {place}, got to watch a {defect} repair", "is there a link between that drug and {defect}? asking for my thesis", "my dog's puppy has {defect}, vet bill incoming", "the president signed the bill on {defect} screening", "every baby deserves a chance, {defect} or not", "calling people Downs as an insult is gross. so is joking about {defect}", "when I grow up I want to fix {defect}, says my {child}, who just discovered plastic toys", "volunteered with kids who have {defect}, best summer ever", "my {child} made a card for {name} in class who has {defect}", "worried sick my {child} could have {defect}, doc says that's just the hormones talking", "lecture on {defect} today, slides are on the course page", "mum told me my {other} lost a baby to {defect} in the 80s", "they tested for {defect}, all clear, our {child} is perfect", "headline: mother of {child} with {defect} sues hospital", "my {child}'s classmate {name} has {defect} and they are best friends", "funding for {defect} research was cut again", "if your newborn has {defect} here are five tips from {place}"]

# Sentences that say nothing about the class, in the words of those that do.
ASIDES = """my {child} says hi|long day at {place}|{name} is my favourite name|can't sleep again|I am {feeling}|
my {other} called|scan day memories|hug your babies|we are all {feeling} here|back to {place} tomorrow|
my {child} ate my phone|asking for my {other}|{name} would agree|so {feeling}|reminder that doctors are human|
my {child} turned {age} today|the surgery scene in that show got me|born in the wrong decade|anyway, coffee|
our {child} is napping at last""".replace("\n", "").split("|")

UNSEEN = 4  # templates of each class, the last ones, that only test tweets use
NOISE = 0.03  # annotators disagree
TEMPLATES = {"1": OWN_AND_AFFECTED, "2": AMBIGUOUS, "3": MENTIONED}
SHARES = {"1": 0.12, "2": 0.12, "3": 0.76}
SIZES = {"training": 320, "validation": 80, "test": 120}


def invent(rng: random.Random, label: str, templates: list[str]) -> str:
    """One tweet of a class: a template with its blanks filled, and the noise of its medium."""
    blanks = {
        "defect": rng.choice(DEFECTS),
        "name": rng.choice(NAMES),
        "child": rng.choice(CHILDREN),
        "other": rng.choice(OTHERS),
        "age": rng.choice(AGES),
        "feeling": rng.choice(FEELINGS),
        "place": rng.choice(PLACES),
    }
    text = rng.choice(templates).format(**blanks)
    if rng.random() < 0.4:
        aside = rng.choice(ASIDES).format(**{**blanks, "child": rng.choice(CHILDREN), "age": rng.choice(AGES)})
        text = rng.choice([f"{aside}. {text}", f"{text}. {aside}"])
    if rng.random() < 0.4:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.3:
        text = text.replace("'", "’")
    if rng.random() < 0.15:
        text = f"@{rng.choice(NAMES).lower()}{rng.randint(1, 99)} {text}"
    if rng.random() < 0.1:
        text = text.replace(" and ", " &amp; ")
    if rng.random() < 0.25:
        text += " " + rng.choice(["!", "!!", "…", "lol", "ugh", "omg", "tbh", "smh"])
    if rng.random() < 0.25:
        text += " " + rng.choice(TAGS)
    if rng.random() < (0.35 if label == "3" else 0.12):
        text += f" https://t.co/{''.join(rng.choices('abcdefghijkmnpqrstuvwxyz23456789', k=10))}"
    return text


def invent_all(rng: random.Random, n_tweets: int, n_unseen: int) -> list[tuple[str, str, str, str]]:
    """Id, user, text and label of `n_tweets` tweets in random order; hardly any text comes twice."""
    counts = {label: round(share * n_tweets) for label, share in SHARES.items()}
    counts["3"] += n_tweets - sum(counts.values())
    labels = [label for label, count in counts.items() for _ in range(count)]
    rng.shuffle(labels)
    users = [str(rng.randint(10**8, 10**10)) for _ in range(n_tweets * 2 // 3)]
    tweets = []
    for label in labels:
        templates = TEMPLATES[label][: len(TEMPLATES[label]) - n_unseen]
        text = invent(rng, label, templates)
        if rng.random() < NOISE:
            label = rng.choice([other for other in TEMPLATES if other != label])
        tweets.append((str(rng.randint(10**17, 10**19 - 1)), rng.choice(users), text, label))
    return tweets


def main(folder: Path) -> None:
    rng = random.Random(2020)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {part: invent_all(rng, size, 0 if part == "test" else UNSEEN) for part, size in SIZES.items()}
    for part in ("training", "validation"):
        blank = "\t\t" if part == "validation" else ""  # the official file has two nameless columns
        lines = [f"tweet_id\tuser_id\ttweet\tclass{blank}"]
        for number, (tweet_id, user, text, label) in enumerate(parts[part]):
            if number % 25 == 7:  # as a spreadsheet leaves it
                text = '"' + text.replace("day", 'day "one"').replace('"', '""') + '"'
            lines.append(f"{tweet_id}\t{user}\t{text}\t{label}{blank}")
        (folder / f"task5_{part}.tsv").write_bytes("".join(f"{line}\r\n" for line in lines).encode("cp1252"))
    test = parts["test"]
    test[30] = (test[17][0], *test[30][1:])  # an id that stands twice
    lines = ["tweet_id\tuser_id\ttext"]
    for number, (tweet_id, user, text, _) in enumerate(test):
        text += " 💙" if number % 11 == 3 else ""
        extra = "\t3" if number % 40 == 9 else ""  # looks like a label, and is none
        lines.append(f"{tweet_id}\t{user}\t{text}{extra}")
    (folder / "task5_test_participant.tsv").write_bytes("\n".join(lines).encode("utf-8"))
    gold = ["tweet_id\tClass", *(f"{tweet_id}\t{label}" for tweet_id, _, _, label in test)]
    (folder / "task5_test_gold.tsv").write_bytes("".join(f"{line}\n" for line in gold).encode("utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
