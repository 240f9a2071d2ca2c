"""What the fleet tells people: one line an event, and errors to Sentry, both without keys."""
