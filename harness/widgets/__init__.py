"""What a person answers by hand: plain logic that needs no browser, and a thin shell of widgets over it."""
