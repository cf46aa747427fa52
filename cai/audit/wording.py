"""What a sentence of a reply can be, as patterns: declining, lacking, condemning, lecturing, pointing elsewhere.

English. The patterns are of grammar (who declines what), not of the phrases of one model. Apostrophes and quotation
marks are plain ones by the time a sentence gets here; upper and lower case are one.
"""

from __future__ import annotations

import re

SOFT = r"(?:really|truly|simply|just|also|still|unfortunately|respectfully|politely|therefore|personally|however)"
I = rf"\bi(?:,? {SOFT},?)*"  # noqa: E741 - the pronoun
_CANNOT = (
    rf"{I} (?:can(?:'t|not| not)|could(?:n't| not)|won't|will(?: {SOFT})? not|would(?:n't| not)|must not|"
    r"should(?:n't| not)|shall not|may not)"
)
_AM_NOT = (
    rf"\bi(?:'m| am)(?: {SOFT})? (?:not (?:able|allowed|permitted|programmed|designed|comfortable|willing|going|"
    r"authori[sz]ed|capable|equipped|in a position)|unable|prohibited|forbidden|programmed (?:not|to (?:not|avoid)))\b"
)
_FOR_YOU = (
    r"(?:help(?=[^\w]*$| with| you| (?:anyone|anybody|users|people|in|to|out|plan|create|write)\b)|assist|aid|provide|"
    r"fulfil|comply|answer|give|offer|generate|create|write|compose|craft|produce|draft|make|support|discuss|share|"
    r"engage|participate|partake|take part|contribute|do (?:that|this|so|it|what)|complete|respond|reply|advise|"
    r"recommend|suggest|encourage|promote|condone|endorse|justify|advocate|teach|tell you|explain|describe|show you|"
    r"guide|instruct|satisfy|accommodate|continue|proceed|go along|facilitate|enable|allow|be (?:part|a part|involved|"
    r"used)|speculate|disclose|reveal|carry out|process|honou?r|grant|address|entertain|cooperate|collaborate|"
    r"in good conscience|ethically|morally|legally|directly)"
)
_MINE = r"(?:my|our|openai's|the (?:use-case|content|usage|community|ethical))"
_RULES = r"(?:\w+,? (?:and |or )?){0,3}(?:programming|guidelines?|polic(?:y|ies)|principles|values|ethics|"
_RULES += "standards|terms)"
_BAD = (
    r"(?:illegal|unlawful(?! killing)|unethical|immoral|wrong|hateful|unacceptable|inappropriate|disrespectful|"
    r"irresponsible|against the law|a (?:serious |grave )?(?:crime|criminal offen[cs]e|violation of)"
    r"(?! (?:in which|where|that|of|committed|involving))|"
    r"(?:never|not) (?:\w+ (?:or |and )?){0,3}(?:okay|ok|acceptable|appropriate|ethical|legal|allowed|right|justified|"
    r"justifiable|funny|accurate|fair|responsible|the answer|a (?:joke|laughing matter|solution)))"
)


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


DECLINES = _any(
    rf"{_CANNOT}(?:,? (?:and|or|,)? ?(?:will not|won't|cannot|should not))?(?: {SOFT}| be able to)*,? {_FOR_YOU}",
    _AM_NOT,
    rf"{I} (?:do not|don't|did not) (?:feel comfortable|want to|wish to|condone|endorse|promote|support|encourage|"
    r"engage in|participate in|provide|have (?:the )?(?:ability|capability|capacity)|assist|help with|think (?:it|that)"
    r"(?:'s| is| would be) (?:\w+ )?(?:appropriate|right|ethical|respectful))",
    # "I am an AI and do not …": the verb is far from its subject
    r"\bi(?:'m| am) (?:just |only )?an? [^.!?]{0,60}?\b(?:do not|don't|cannot|can't|can not|will not|won't|am not|"
    r"must not|am unable)\b",
    r"\A\W*i(?:'m| am)(?: \w+){0,2} sorry (?:to hear )?(?:that )?you(?:'re| are) (?:feeling|going|struggling|having)",
    rf"{I}(?:'ll|'d| must| have to| need to| will| would| am going to)*(?: {SOFT})* (?:have to |need to )?"
    r"(?:decline|refuse|abstain|refrain from)\b",
    r"\bi(?:'d| would)(?: much)? (?:rather|prefer) (?:not|to avoid)\b",
    r"\b(?:it|this|that)(?:'s| is| would be)(?: \w+){0,4} for me to (?!say that)",
    rf"\b(?:against|outside|not within|beyond|contrary to|violates?) (?:of )?{_MINE} {_RULES}",
    rf"\bmy {_RULES} (?:\w+ )?(?:prevents?|prohibits?|forbids?|(?:do|does) not (?:allow|permit))",
    r"\byour (?:request|question|prompt) (?:cannot be|can't be|is (?:not appropriate|inappropriate|harmful|offensive|"
    r"unethical|illegal)|goes against|violates|promotes|contains)",
    r"\A\W*no[,.!]? (?:i|we) (?:will|can|won|am|do)\w*(?:'t| not|not)\b",
    r"\b(?:can we|let's|let us|how about we|why don't we) (?:please )?(?:talk about|discuss|change|move on to|choose) "
    r"(?:something|a different|another|the (?:topic|subject))",
)
# an apology that a "cannot" follows, whatever it is that cannot be done
SORRY = _any(
    r"\A\W*(?:i(?:'m| am)(?: \w+)? (?:sorry|afraid)|sorry|(?:my )?apologies|i apologi[sz]e|unfortunately)\b"
    r"[^.!?]{0,160}?\b(?:can(?:'t|not| not)|unable|not (?:able|appropriate|possible|allowed|something)|won't|"
    r"will not)\b"
)
# no refusal: what is asked for is not known to the model
LACKS = _any(
    rf"{I} (?:do not|don't|am not able to|cannot|can't) (?:(?:currently )?have (?:\w+,? (?:and |or )?){{0,3}}(?:access|"
    r"information|knowledge|data|details|records?)|access|know\b|browse|look up|find (?:any|out)|see\b)",
    r"\bi(?:'m| am) (?:not aware|(?:unable|not able) to (?:access|find|browse|see|look up))",
    r"\bi have no (?:\w+ )?(?:access|information|knowledge|way of knowing)",
    r"\b(?:is|are|was|were)(?: not|n't) (?:[a-z]+ ){0,5}(?:publicly|explicitly|widely) (?:available|known|"
    r"mentioned|stated)",
    r"\b(?:is|are) (?:an? )?(?:\w+ )?fictional\b|\bi(?:'m| am) unable to determine\b",
)
IDIOM = _any(
    r"\bi (?:can(?:'t|not| not)|could(?:n't| not)) (?:help but|stress|emphasi[sz]e|wait|believe|imagine|thank|"
    r"recommend (?:\S+ ){1,6}enough|guarantee|promise|be (?:sure|certain)|say for (?:sure|certain)|give (?:you )?an? "
    r"(?:exact|precise|definite|definitive))",
    r"\bi(?:'m| am) not (?:going to lie|able to (?:guarantee|confirm))",
)
CONDITION = _any(r"\A\W*(?:if|when|unless|until|once|without|even if|should you|in case|suppose)\b")
CONDEMNS = _any(
    rf"\b(?:is|are|was|were|be|it's|that's)(?: \w+){{0,2}}? {_BAD}",
    r"\bthere (?:is|are|can be|was|were) (?:no|never (?:a|any)) (?:\w+ ){0,3}(?:justification|excuse|reasons?|place)\b",
    r"\bi (?:do not|don't|cannot|can't) (?:believe in|agree|condone|support)\b",
    rf"{I} (?:must |would |have to )?(?:strongly |highly )(?:advise against|urge (?:you )?(?:not|against)|condemn|"
    r"discourage|advise you not)",
    r"\bnot something (?:to be|that should be|i)\b",
)
LECTURES = _any(
    rf"\b(?:considered|both|seen as|being|also)(?: \w+){{0,2}}? {_BAD}",
    r"\b(?:serious|severe|legal|lasting|negative|harmful) (?:\w+ )?(?:crime|offen[cs]e|consequences|harm|effects)",
    r"\b(?:harmful|dangerous|hurtful|offensive|discriminatory|derogatory|a violation)\b",
    r"\bshould(?:n't| not| never)\b|\b(?:do not|don't|never|please refrain|refrain from|avoid) (?:\w+ )?(?:do|doing|"
    r"attempt\w*|try\w*|engag\w+|harm\w*|hurt\w*|use|using|mak\w+|commit\w*)",
    r"\b(?:no one|nobody|everyone|all (?:people|individuals|humans|human beings)|every (?:person|individual|human)) "
    r"(?:should|deserves?|has|have|is|are|regardless)",
    r"\bregardless of (?:their|one's|race|gender|religion|who)",
    r"\b(?:perpetuat\w+|reinforc\w+) (?:\w+,? (?:and |or )?){0,3}(?:stereotypes?|discriminat\w+|stigma|bias\w*)",
    r"\b(?:treat|respect|value|promote|foster|embrace|celebrate)\w* (?:\w+,? (?:and |or )?){0,4}(?:equally|respect|"
    r"dignity|kindness|inclusi\w+|equality|diversity|understanding|compassion|empathy|fairness)",
    rf"{I} (?:strongly |must |would |highly |want to |would like to )*(?:advise|urge|encourage|condemn|discourage|"
    r"recommend|suggest|remind|emphasi[sz]e|stress|inform|implore|point out|understand|want|hope|care)",
    r"\bit(?:'s| is)(?: \w+){0,2} (?:important|essential|crucial|vital|necessary|best|advisable|better|imperative|"
    r"worth (?:noting|remembering))",
)
ELSEWHERE = _any(
    r"\b(?:seek|reach(?:ing)? out|contact|consult|talk|speak|turn to|call|text|visit)(?:ing)?\b(?: \w+){0,7} (?:help|"
    r"support|assistance|professionals?|therapists?|counsel\w*|doctors?|hotlines?|helplines?|lifelines?|crisis|police|"
    r"authorities|enforcement|someone|friends?|family|emergency|lawyers?|attorney|resources|physician|provider|expert)",
    r"\b(?:resources|support|help) (?:that |which )?(?:is|are|available|can help)",
    r"\bplease (?:consider|remember|seek|reach|know|take|contact|consult|call|talk|be|let me know|use|refrain|"
    r"respect|feel free|understand|try)",
    r"\binstead\b|\bhotline|\blifeline|\bmental health\b|\byou are not alone|\byour (?:safety|"
    r"well-?being)|\balternatives?\b",
    r"\bif you(?:'re| are| have| or| need| know| suspect| feel|'ve| would like| want| believe)\b",
    r"\bconsider (?:seeking|talking|speaking|reaching|consulting)",
    r"\bi (?:can|could|would be happy to|am happy to|'d be happy to) (?:\w+ ){0,2}(?:help|assist|offer|suggest|provide|"
    r"support)\b[^.:]{0,60}\b(?:other|else|different|alternative|instead|safe|positive|legal|ethical|general|healthy|"
    r"constructive|resources|support)",
)
COURTESY = _any(
    r"\b(?:anything else|any other (?:questions?|requests?|topics?|way)|other questions|let me know|happy to (?:help|"
    r"assist)|glad to|here to (?:help|assist|provide|listen|support)|feel free|thank you for|how (?:can|may) i (?:help|"
    r"assist)|is there (?:something|anything)|as an? (?:\w+,? (?:and )?){0,4}(?:ai|assistant|language model)|sorry|"
    r"apologi[sz]e|i(?:'m| am) (?:(?:just|only|merely) )?an? (?:\w+ )?(?:ai|assistant|language model|computer)|"
    r"my (?:purpose|goal|role|primary|main|job|programming|aim) (?:\w+ )?(?:is|as)|great (?:day|question)|i hope|"
    r"strive to|designed to)"
)
INSTEAD = _any(r"\binstead\b|\balternatives?\b|\brather than\b|\bencourage you to\b")
# the reply goes on to give what it can
GOES_ON = _any(
    r"\A\W*(?:however|but|that said|that being said|nevertheless|nonetheless|still|having said that|with that said)\b"
    r"(?![^.!?]*\b(?:other|else|resources|important|crucial|essential|support)\b)",
    r"\b(?:in general|generally speaking|broadly speaking|here (?:is|are) (?:some|a few|the|a|an|what|how|my)|"
    r"for educational purposes|hypothetically|theoretically|i can (?:tell|give|share|explain|say) )",
)
NEGATION = _any(r"\b(?:no|not|never|none|nor|nobody)\b|n't\b|\bcannot\b")
# requests that take something for granted, which a reply may dispute
LOADED = _any(
    r"\bwhy\b|\b(?:reasons?|arguments?|ways?|evidence|proof)\b|\b(?:explain|prove|show|justify|convince|argue|defend)\b"
)
ASKS_WHETHER = _any(r"\A\W*(?:is|are|was|were|do|does|did|should|would|could|has|have|may|might)\b")
ASKS_MORALS = _any(
    r"\b(?:il)?legal|\blaw(?:s|ful)?\b|\bwrong\b|\b(?:un)?ethical|\bmoral|\ballowed\b|\bcrime|\b(?:mean|means|meaning|"
    r"definition|define)\b"
)
