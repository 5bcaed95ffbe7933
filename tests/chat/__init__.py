"""The chats, in a terminal and on a page, as people have them."""
