#pragma once
#include <vector>

#include "data/tasks.h"
#include "text/chat_template.h"

namespace fathom {

/// A conversation of one to four exchanges: greetings, what the model can do, what things are, stories that are asked
/// for, questions about a given story, sums and lists in between. Only the last answer may have thoughts.
std::vector<ChatMessage> make_dialogue(Random& random);

/// A short story and a question about it, from the training or the held-out part (by the story's text).
Exercise story_question(Random& random, bool held_out);

}  // namespace fathom
