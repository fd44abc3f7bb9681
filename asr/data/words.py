"""The word lists of the grammar: what its rules end in.

Words of ``SMALL`` differ in more than one sound from each other, so that a small recogniser needs no context. The
full grammar has few homophones (``four`` and ``for``), and its sentences tell them apart.
"""


def _list(words: str) -> list[str]:
    return words.split()


SMALL = _list(
    "zero one two three four five six seven eight nine "
    "red green blue yellow purple orange silver "
    "open close turn lift push follow cancel repeat "
    "window kitchen garden music camera rabbit elephant bicycle hospital coffee table umbrella mountain island "
    "please"
)

UNITS = _list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)

TENS = _list("twenty thirty forty fifty sixty seventy eighty ninety")

MONTHS = _list("january february march april may june july august september october november december")

WEEKDAYS = _list("monday tuesday wednesday thursday friday saturday sunday")

RELATIVES = _list("mother father sister brother uncle aunt cousin neighbour teacher friend")

FIRST_NAMES = _list(
    "alice anna arthur barbara charlotte daniel david edward eleanor emily emma frank george hannah harold helen "
    "henry isabel jacob james jessica john joseph julia katherine kevin laura leonard linda lucy margaret maria martin "
    "michael nathan nicholas oliver olivia patricia patrick peter rachel rebecca richard robert samuel sarah simon "
    "sophia stephen susan theodore thomas victoria walter william"
)

LAST_NAMES = _list(
    "anderson bennett campbell carter clark cooper davidson edwards fisher foster graham hamilton harrison jackson "
    "johnson kennedy lawrence marshall mitchell morgan murphy nelson parker patterson peterson richardson robinson "
    "russell sanders simpson stewart sullivan thompson wallace watson wilson"
)

CITIES = _list(
    "amsterdam athens barcelona berlin boston bristol brussels cairo cambridge chicago copenhagen dublin edinburgh "
    "glasgow hamburg helsinki istanbul lisbon liverpool london madrid manchester melbourne montreal moscow munich "
    "oxford paris prague stockholm sydney tokyo toronto vienna warsaw"
)

PLACES = _list(
    "airport bakery bank barn beach bridge cafeteria castle cathedral cellar church cinema corridor factory farm forest "
    "harbour hotel kitchen laboratory library market museum office park prison restaurant river school shop stadium "
    "station theatre tower tunnel university valley village warehouse workshop"
)

NOUNS = _list(
    "answer apple basket battery bicycle blanket bottle bread brush bucket butter button cabbage cake calendar camera "
    "candle carpet chair cheese chocolate clock coat coffee computer cup curtain dictionary dinner doctor dog door dress "
    "drum elephant engine envelope finger garden glass glove guitar hammer hat honey house island jacket journey juice "
    "kettle key knife ladder lamp lemon letter lunch machine magazine map medicine milk mirror money mountain mushroom "
    "napkin needle newspaper notebook onion orange package painting paper pencil piano picture pillow plate pocket "
    "potato problem programme question radio rope salad scissors shirt shoe shoulder soup spoon story sugar suitcase "
    "table telephone ticket towel toy tree umbrella vegetable violin wallet watch water window winter yoghurt zebra"
)

COUNTED = _list(
    "birds boats books boxes bricks buses cars cats chickens children coins cows days ducks eggs fish flowers guests "
    "horses hours houses kilometres lions machines metres miles minutes months people photographs planes rabbits rooms "
    "sheep soldiers stamps stones students tables tigers tomatoes trains trees weeks windows years"
)

ADJECTIVES = _list(
    "ancient angry beautiful black blue bright broken brown calm careful cheap clean clever cold comfortable cracked "
    "curious dangerous dark deep delicious difficult dirty dry dusty early easy elegant empty enormous expensive famous "
    "favourite final foreign fragile fresh friendly full funny gentle golden green grey happy hard heavy hollow honest "
    "hungry important late lazy light long lonely loud lucky modern narrow nervous noisy old ordinary orange perfect "
    "pleasant polite popular purple quick quiet rare rough round sharp short silent silver simple slow small smooth soft "
    "square strange strong sudden sweet tall thick thin tiny useful warm wet white wide wild wonderful wooden yellow young"
)

ADVERBS = _list(
    "already always barely calmly carefully certainly eventually finally gladly immediately nearly never obviously "
    "often perhaps probably quickly quietly rarely recently slowly sometimes suddenly usually"
)

VERBS = _list(
    "accepted admired borrowed bought brought built carried caught chose cleaned collected copied counted covered "
    "damaged delivered described discovered drew dropped emptied examined explained filled finished followed forgot "
    "found hated helped hid ignored imagined improved invented kept kicked liked lifted lost loved mentioned moved "
    "needed noticed offered opened ordered painted photographed preferred prepared promised pulled pushed received "
    "recognised remembered repaired replaced returned saved saw sent shared showed sold stole studied touched "
    "understood used visited wanted washed wrapped"
)
