"""Trials with known truth, which tie all rooms together: cases, their controls, the score of the miniature models.

case      one artist's works, a fine-tune, and what base and tuned model draw for the same prompts
controls  the same case for other unseen artists: the null of the style question
score     how good the miniature models are, on people that they never met
cli       `harness world`
"""
