package webui

// german is complete: a test compares it with english.
func german() catalogue {
	return catalogue{
		"lang": "de",

		"name": "Croft",
	}
}
