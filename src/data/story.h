#pragma once
#include <optional>
#include <string>
#include <vector>

#include "data/random.h"

namespace fathom {

/// A question about a story and its answer, a whole sentence that the story's state implies.
struct StoryQuestion {
  std::string question;
  std::string answer;
  std::string key;     ///< what an answer must contain, in lower case
  std::string reason;  ///< the sentence to think of before answering
};

struct Story {
  std::string text;    ///< paragraphs with an empty line between them
  std::string hero;    ///< "Mia"
  std::string kind;    ///< "girl", "fox"
  std::string object;  ///< "lamp"; empty if the plot has none
  std::string place;   ///< "forest"
  std::vector<StoryQuestion> questions;
};

/// What a story must be about; empty: whatever is drawn.
struct StoryRequest {
  std::string animal;  ///< of words::animals, the hero
  std::string object;  ///< of words::objects
};

/// A story of a hero with a wish, an obstacle, attempts and consequences: one of several plots, in which who has what
/// and where things are is drawn first and told then.
Story make_story(Random& random, const StoryRequest& request = {});

}  // namespace fathom
