"""Two runs side by side: settings, findings with paired differences, pictures."""
