"""Prompts and a text for the goldens of SmolLM2. Data only; written for this purpose."""

PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in two sentences why the sky is blue.",
    "Translate to Spanish: The cat sleeps on the warm stone.",
    "List three uses for an old newspaper.",
    "What is 17 + 25? Show the steps.",
    "Write a Python function that returns the factorial of n.",
    "Summarize: The mill by the river ground grain for the whole valley until the flood of 1910 took its wheel.",
    "Give me a name for a small stone mill and say why it fits.",
    "Who wrote Hamlet?",
    "Correct the grammar: he don't has no time for goes to the market",
    "What are the primary colors?",
    "Continue the story: The lighthouse keeper heard a knock at midnight.",
    "Convert 3 kilometres to metres.",
    "Classify the sentiment as positive or negative: I waited two hours and the soup was cold.",
    "Write a JSON object with the keys name and age for a person called Ada who is 36.",
    "Name a mammal that lays eggs.",
    "Why do we need sleep?",
    "Bonjour ! Peux-tu me dire l'heure qu'il est à Paris ?",
    "Say hello.",
]

LONG_TEXT = """The old mill stood where the valley narrowed, and for three hundred years the water had done the work. Farmers came \
down the road before sunrise with their carts, and while the stones turned they talked about the weather, the price of \
salt, and the health of each other's animals. Nobody thought of the mill as a machine. It was a place, like the church \
or the bridge, and it had its own sounds: the low complaint of the axle, the patter of grain in the hopper, the hiss of \
flour falling into the sack.

When the railway arrived in 1874, the engineers drew a line across the map and the line went straight through the mill \
pond. The owner, a widow named Marta Lindqvist, refused to sell. She wrote letters to the company, to the county, and in \
the end to the king. Her argument was simple. A train carries what a valley makes, she said, but it makes nothing itself; \
take away the mill, and there will be nothing to carry. The letters are kept in the town archive, in a box with a blue \
ribbon, and schoolchildren are taken to see them.

The company moved the line by sixty metres. It cost them a cutting and a short tunnel, and the tunnel is still there, \
although the trains are gone. The mill outlived them. In 1951 an electric motor replaced the wheel, and in 1987 the last \
sack was filled by hand. Today a group of volunteers grinds rye on the second Saturday of every month. They use the \
smaller pair of stones, which a single person can lift with the help of a crane made of oak. The flour is coarse and \
slightly sweet, and it is usually sold out before noon.

If you visit, ask them to show you the marks on the beam above the door. There are 214 short lines, cut with a knife, one \
for every year in which the pond did not freeze."""
