"""Trials with known truth, which tie all rooms together: what the notebooks tell, and what the instruments are marked with.

case       one artist's works, a fine-tune, and what base and tuned model draw for the same prompts (notebook 00)
story      pictures and words of that case for its report
roles      a small house of works and persons, each playing a part: yes, no, expired, a client's, not attested (notebook 01)
house      what happens in it: learning, withdrawal, forgetting, and the searches after them
forger     ways to rewrite a ledger's history, tried on copies
sources    finished runs that a dossier is made from, taken only as they were when they ended (notebook 08)
dossier    one signed report out of finished runs, with what goes along and what stays at home
tampering  ways to cheat on a sealed report, tried on copies
marks      a person or a hand is learned, and judges that took no other part mark every checkpoint (notebook 02)
judges     those judges, loaded, and how well they tell people and hands apart
copied     near-duplicates of training pictures, beyond those among pictures that copy nothing
controls   the case for other unseen artists: the null of the style question
score      how good the miniature models are, on people that they never met
cli        `harness world`
"""
