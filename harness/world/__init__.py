"""The miniature world: drawn portraits whose truth is known, and the small models that are trained on them.

artists   who draws (creator, licence and source from the art's own metadata; pseudonyms everywhere else)
styles    what each drawn style says about a portrait, as explicit tables
people    a fixed identity under changing expressions and clothes
hands     pseudo-artists: parametric hands laid over portraits
captions  a small grammar with synonyms and free order
truths    planted truths as data: skews, duplicates, withdrawals, exact populations
render    portraits -> an image folder with samples.csv and a data card
build_*   train the miniature autoencoder, CLIP and U-Net; score says how good they are
"""
