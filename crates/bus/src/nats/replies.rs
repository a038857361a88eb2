//! Everything that is answered comes to one inbox of this connection, each question under a token of
//! its own, which nobody can guess: who is asked one question must not be able to answer another's. What was given up is forgotten at once, and a lost connection ends what waits.

use super::connection::AbortOnDrop;
use crate::BusError;
use async_nats::{Client, Message};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::mpsc;

/// Questions under way at a time; more are refused.
pub(crate) const MAX_QUESTIONS: usize = 65_536;

/// Last token of a question's inbox, in hexadecimal digits.
type Token = u128;

/// What is asked and not yet answered.
#[derive(Clone, Default)]
pub(crate) struct Questions(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    by_token: HashMap<Token, Question>,
}

struct Question {
    subject: String,
    /// Unbounded: what comes is bounded by what was asked for.
    answers: mpsc::UnboundedSender<Result<Message, BusError>>,
}

impl Questions {
    /// The connection is lost: no answer that waits will come.
    pub(crate) fn fail_all(&self) {
        self.0.lock().by_token.clear();
    }

    /// The server does not let this user ask on `subject`.
    pub(crate) fn deny(&self, subject: &str) {
        for question in self.0.lock().by_token.values().filter(|question| question.subject == subject) {
            let denied = BusError::Unavailable(format!("this user may not publish to {subject}"));
            let _ = question.answers.send(Err(denied));
        }
    }
}

/// The inbox.
pub(crate) struct Replies {
    prefix: String,
    questions: Questions,
    _task: AbortOnDrop,
}

impl Replies {
    pub(crate) async fn open(client: &Client, questions: Questions) -> Result<Self, BusError> {
        let prefix = client.new_inbox();
        let mut messages =
            client.subscribe(format!("{prefix}.*")).await.map_err(|error| BusError::Unavailable(error.to_string()))?;
        let asked = questions.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let token = message.subject.rsplit('.').next().and_then(|text| Token::from_str_radix(text, 16).ok());
                let asked = asked.0.lock();
                if let Some(question) = token.and_then(|token| asked.by_token.get(&token)) {
                    // Whoever asked may have gone.
                    let _ = question.answers.send(Ok(message));
                }
            }
            asked.fail_all();
        });
        Ok(Self { prefix, questions, _task: AbortOnDrop(task) })
    }

    /// An inbox for a question about to be asked on `subject`.
    pub(crate) fn expect(&self, subject: &str) -> Result<Expected, BusError> {
        let (sender, answers) = mpsc::unbounded_channel();
        let mut waiting = self.questions.0.lock();
        if waiting.by_token.len() >= MAX_QUESTIONS {
            return Err(BusError::Invalid(format!("this process already has {MAX_QUESTIONS} questions under way")));
        }
        let token: Token = rand::random();
        waiting.by_token.insert(token, Question { subject: subject.to_owned(), answers: sender });
        let inbox = format!("{}.{token:032x}", self.prefix);
        Ok(Expected { inbox, token, answers, questions: self.questions.clone() })
    }
}

/// Answers to one question; dropping it forgets the question.
pub(crate) struct Expected {
    pub(crate) inbox: String,
    token: Token,
    answers: mpsc::UnboundedReceiver<Result<Message, BusError>>,
    questions: Questions,
}

impl Expected {
    /// The next answer. May be dropped at any time.
    pub(crate) async fn next(&mut self) -> Result<Message, BusError> {
        match self.answers.recv().await {
            Some(answer) => answer,
            None => Err(BusError::Unavailable("the connection to the server was lost".to_owned())),
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.questions.0.lock().by_token.remove(&self.token);
    }
}
